"""Names of T5X's arrays, and where Hugging Face's layout has what they hold.

Held to the forward pass of flaxformer's Switch by the logits in ``tests/data/t5x``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pointsman.bundle.names import (
    CROSS_ATTENTION,
    EMBEDDING,
    HEAD,
    LAYER_NORM,
    OUTPUT_PROJECTION,
    SELF_ATTENTION,
    block_path,
    expert_weight,
    final_norm,
    relative_bias,
    router_weight,
)

Keys = tuple[str, ...]
"""From the root of T5X's tree of parameters to an array: ``("encoder", "encoder_norm", "scale")``."""

EXPERT: Final = "{expert}"

_LAYER = re.compile(r"layers_(\d+)")
_SCANNED = re.compile(r"layers|subblock_\d+")
_PROJECTIONS = {"query": "q", "key": "k", "value": "v", "out": "o"}
_FEED_FORWARD = ("wi", "wi_0", "wi_1", OUTPUT_PROJECTION)
_ATTENTIONS: Mapping[str, Mapping[str, str]] = {
    "encoder": {"attention": f"layer.0.{SELF_ATTENTION}"},
    "decoder": {
        "self_attention": f"layer.0.{SELF_ATTENTION}",
        "encoder_decoder_attention": f"layer.1.{CROSS_ATTENTION}",
    },
}
_NORMS: Mapping[str, Mapping[str, str]] = {
    "encoder": {"pre_attention_layer_norm": "layer.0", "pre_mlp_layer_norm": "layer.1"},
    "decoder": {
        "pre_self_attention_layer_norm": "layer.0",
        "pre_cross_attention_layer_norm": "layer.1",
        "pre_mlp_layer_norm": "layer.2",
    },
}


@dataclass(frozen=True, slots=True)
class Place:
    """What an array is.

    Attributes:
        name: Of the tensor in Hugging Face's layout; with `EXPERT` in it where there is one for each expert.
        axes: How many the array must have; where there are experts, the first counts them.
        transposed: Whether the tensor has the array's last two axes in the other order.
    """

    name: str
    axes: int
    transposed: bool

    @property
    def stacked(self) -> bool:
        """Whether the array holds the tensor of every expert."""
        return EXPERT in self.name


def place_of(path: Keys) -> Place | None:
    """Where an array belongs; None for arrays that are no part of a Switch model."""
    match path:
        case ("token_embedder", "embedding"):
            return Place(EMBEDDING, 2, transposed=False)
        case ("decoder", "logits_dense", "kernel"):
            return Place(HEAD, 2, transposed=True)
        case ("encoder" | "decoder" as side, "relpos_bias", "rel_embedding"):
            return Place(f"{relative_bias(side)}.weight", 2, transposed=True)
        case ("encoder" | "decoder" as side, norm, "scale") if norm == f"{side}_norm":
            return Place(f"{final_norm(side)}.weight", 1, transposed=False)
        case ("encoder" | "decoder" as side, layer, *rest) if number := _LAYER.fullmatch(layer):
            return _in_layer(side, block_path(side, int(number[1])), tuple(rest))
    return None


def _in_layer(side: str, block: str, path: Keys) -> Place | None:
    match path:
        case (norm, "scale") if norm in _NORMS[side]:
            return Place(f"{block}.{_NORMS[side][norm]}.{LAYER_NORM}.weight", 1, transposed=False)
        case ("mlp", *rest):
            return _in_feed_forward(f"{block}.{_NORMS[side]['pre_mlp_layer_norm']}.mlp", tuple(rest))
        case (attention, projection, "kernel") if attention in _ATTENTIONS[side] and projection in _PROJECTIONS:
            name = f"{block}.{_ATTENTIONS[side][attention]}.{_PROJECTIONS[projection]}.weight"
            return Place(name, 2, transposed=True)
    return None


def _in_feed_forward(mlp: str, path: Keys) -> Place | None:
    match path:
        case (projection, "kernel") if projection in _FEED_FORWARD:
            return Place(f"{mlp}.{projection}.weight", 2, transposed=True)
        case ("router", "router_weights", "w", "kernel"):
            return Place(router_weight(mlp), 2, transposed=True)
        case ("expert", projection, "kernel") if projection in _FEED_FORWARD:
            return Place(expert_weight(mlp, EXPERT, projection), 3, transposed=True)
    return None


def is_scanned(path: Keys) -> bool:
    """Whether an array stacks the layers of a model that was trained with scanned layers."""
    return any(map(_SCANNED.fullmatch, path))

"""What published models would take that are larger than memory, by arithmetic from their shapes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from pointsman.bundle import Architecture, names
from pointsman_export.architecture import expected_tensors
from shapes import SHAPES, xxl

BYTES_INT8: Final = 1.0  # of a weight; scales of columns are next to nothing
TOKENS: Final = 64  # of an input
NVME: Final = 5e9  # bytes a second
MODELS: Final[Mapping[str, Architecture]] = {
    "switch-base-8": SHAPES["switch-base-8"],
    "switch-base-128": SHAPES["switch-base-128"],
    "switch-xxl-128": xxl(layers=24, num_experts=128),
}


@dataclass(frozen=True, slots=True)
class Published:
    """A model in a scheme.

    Attributes:
        model: its name.
        scheme: of its weights.
        expert_bytes: of all experts.
        other_bytes: of all else, which stays in memory, its embedding both as a table and as the head.
        token_bytes: of experts that a token reads in the decoder.
        input_bytes: of experts that the encoder reads for 64 tokens, if routers send them evenly at random.
        disk_seconds: for a decoded token all of whose experts come from this disk.
        nvme_seconds: the same from a disk of 5 GB a second.
    """

    model: str
    scheme: str
    expert_bytes: float
    other_bytes: float
    token_bytes: float
    input_bytes: float
    disk_seconds: float
    nvme_seconds: float

    HEADER: ClassVar = (
        "model by arithmetic",
        "experts GB",
        "else GB",
        "MB of them a token",
        "GB for 64 encoded",
        "s, this disk",
        "s, at 5 GB/s",
    )

    def row(self) -> list[str]:
        """For a table."""
        sizes = (f"{size / 1e9:.1f}" for size in (self.expert_bytes, self.other_bytes))
        read = (f"{self.token_bytes / 1e6:.0f}", f"{self.input_bytes / 1e9:.1f}")
        seconds = (f"{seconds:.3f}" for seconds in (self.disk_seconds, self.nvme_seconds))
        return [f"{self.model} {self.scheme}", *sizes, *read, *seconds]

    def to_json(self) -> dict[str, Any]:
        """Bytes and seconds."""
        return {
            "model": self.model,
            "scheme": self.scheme,
            "expert_bytes": round(self.expert_bytes),
            "other_bytes": round(self.other_bytes),
            "token_bytes": round(self.token_bytes),
            "input_bytes": round(self.input_bytes),
            "disk_seconds": round(self.disk_seconds, 4),
            "nvme_seconds": round(self.nvme_seconds, 4),
        }


def published(disk_rate: float) -> list[Published]:
    """Each model in int8 and int4.

    Args:
        disk_rate: bytes a second of this machine's disk.
    """
    return [_of(name, shape, scheme, disk_rate) for name, shape in MODELS.items() for scheme in ("int8", "int4")]


def _of(name: str, shape: Architecture, scheme: str, disk_rate: float) -> Published:
    sizes = {weight: math.prod(axes) for weight, axes in expected_tensors(shape).items()}
    experts = {weight: size for weight, size in sizes.items() if names.expert_of(weight) is not None}
    others = sum(sizes.values()) - sum(experts.values())
    table = sizes.get(names.EMBEDDING, 0) if shape.tied_head else 0
    held = sum(experts.values()) * (BYTES_INT8 if scheme == "int8" else _bytes_int4(shape))
    layers = {role: len(shape.stack(role).sparse_layers) for role in ("encoder", "decoder")}
    one = held / shape.num_experts / sum(layers.values())
    token = one * layers["decoder"]
    reached = shape.num_experts * (1 - (1 - 1 / shape.num_experts) ** TOKENS)
    encoded = one * layers["encoder"] * reached
    rest = (others + table) * BYTES_INT8
    return Published(name, scheme, held, rest, token, encoded, token / disk_rate, token / NVME)


def _bytes_int4(shape: Architecture) -> float:
    """Of a weight, with a float32 scale for each 32 of `wi`, or each 64 where there are 2048 inputs and more."""
    blocks = [64 if inputs >= 2048 else 32 for inputs in (shape.d_model, shape.d_ff)]
    weights = [2 if shape.gated else 1, 1]
    return sum(count * (0.5 + 4 / block) for count, block in zip(weights, blocks, strict=True)) / sum(weights)

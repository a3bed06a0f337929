"""A block: attention, and a feed-forward network."""

from typing import cast

from torch import Tensor, nn

from pointsman.manifest import Stack
from pointsman_export.modules.attention import CrossAttentionLayer, SelfAttentionLayer
from pointsman_export.modules.build import Build
from pointsman_export.modules.feed_forward import FeedForwardLayer
from pointsman_export.modules.positions import RelativeBias


class Block(nn.Module):
    """One block of a stack; `layer` holds self-attention, in a decoder cross-attention, and feed-forward.

    Block 0 of a stack holds the relative bias of all its blocks.
    """

    def __init__(self, build: Build, stack: Stack, index: int, *, decoder: bool) -> None:
        super().__init__()
        name = "decoder" if decoder else "encoder"
        bias = RelativeBias(build.architecture, bidirectional=not decoder) if index == 0 else None
        layers: list[nn.Module] = [SelfAttentionLayer(build, bias)]
        if decoder:
            layers.append(CrossAttentionLayer(build))
        path = f"{name}.block.{index}.layer.{len(layers)}"
        sparse = index in stack.sparse_layers
        self.layer = nn.ModuleList([*layers, FeedForwardLayer(build, path, sparse=sparse, few_tokens=decoder)])

    def position_bias(self, queries: Tensor, keys: Tensor) -> Tensor:
        """The stack's relative bias, [1, heads, queries, keys]; in block 0 only."""
        attention = cast("SelfAttentionLayer", self.layer[0]).SelfAttention
        bias: Tensor = attention.get_submodule("relative_attention_bias")(queries, keys)
        return bias

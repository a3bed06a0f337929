"""A block: attention, and a feed-forward network."""

from collections import Counter
from typing import Final, cast

from torch import Tensor, nn

from pointsman.bundle import Stack
from pointsman_export.network.attention import CrossAttentionLayer, SelfAttentionLayer
from pointsman_export.network.build import Build
from pointsman_export.network.feed_forward import FeedForwardLayer
from pointsman_export.network.positions import RelativeBias

_OF_A_KIND: Final = 2


def kinds(stack: Stack) -> list[bool]:
    """Whether each block is sparse."""
    return [number in stack.sparse_layers for number in range(stack.layers)]


def traced_blocks(stack: Stack) -> tuple[int, ...]:
    """Numbers of the blocks to trace: the first two that are dense, and the first two that are sparse."""
    seen: Counter[bool] = Counter()
    numbers = []
    for number, sparse in enumerate(kinds(stack)):
        if seen[sparse] < _OF_A_KIND:
            numbers.append(number)
        seen[sparse] += 1
    return tuple(numbers)


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

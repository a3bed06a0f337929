"""The torch modules with a checkpoint's weights, one block at a time: what written graphs are compared with.

Nothing here goes through the external-data file, and no more than one block is ever in memory; of a sparse block, one
expert.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pointsman.bundle import Dtype, Role, names
from pointsman_export.checkpoint import NUMPY_DTYPES, TensorReader
from pointsman_export.graphs.weights import stored_dtype
from pointsman_export.network import Build, projection_names
from pointsman_export.network.attention import Pair, masked
from pointsman_export.network.block import Block
from pointsman_export.network.feed_forward import FeedForwardLayer
from pointsman_export.network.layers import Linear, RMSNorm
from pointsman_export.network.moe import ExpertWeights
from pointsman_export.network.positions import RelativeBias

Array = NDArray[np.generic]
Assign = Callable[[str, int, int], Iterator[Tensor]]


@dataclass(frozen=True, slots=True)
class BlockResult:
    """What a block makes of its input.

    Attributes:
        attended: the residual stream before the feed-forward network, float32 [rows, tokens, d_model].
        key: of self-attention, past included, [rows, heads, tokens, d_kv].
        value: likewise.
        hidden: the residual stream behind the block, which the next one is given.
        experts: of a sparse block, what its experts do.
    """

    attended: Tensor
    key: Tensor
    value: Tensor
    hidden: Tensor
    experts: "ExpertsResult | None"


@dataclass(frozen=True, slots=True)
class ExpertsResult:
    """What the experts of a block do.

    Attributes:
        chosen: int64 [rows, tokens], by the router.
        outputs: assignments of tokens to experts, int64 [rows, tokens], and for each the residual stream behind the
            block; the first one is handed on.
    """

    chosen: Tensor
    outputs: Sequence[tuple[Tensor, Tensor]]


class Reference:
    """A checkpoint's blocks, built and loaded when they are asked for.

    Args:
        build: of the variants that are checked; computation is in float32 whatever their precision.
        checkpoint: read under canonical names; weights are rounded to the variants' dtype first.
        assign: where the tokens of a sparse layer go, of its path, rows and tokens.
    """

    def __init__(self, build: Build, checkpoint: TensorReader, assign: Assign) -> None:
        self.build, self.architecture, self.checkpoint = build, build.architecture, checkpoint
        self.assign = assign

    def tensor(self, name: str, dtype: Dtype | None = None) -> Tensor:
        """A tensor rounded to what it is stored in, by default as products' weights are; float32, as it is oriented."""
        array: Array = self.checkpoint.read(name)
        rounded = array.astype(NUMPY_DTYPES[dtype or self.build.precision.name], copy=False)
        return torch.from_numpy(rounded.astype(np.float32, copy=False))

    def load(self, module: nn.Module, prefix: str) -> None:
        """Fill a module's parameters."""
        for path, owner in module.named_modules():
            for name in [name for name, _ in owner.named_parameters(recurse=False)]:
                full = ".".join(filter(None, (prefix, path, name)))
                product = isinstance(owner, Linear) and name == "weight"
                value = self.tensor(full, stored_dtype(full, self.build.precision.name, multiplied=product))
                owner.register_parameter(name, nn.Parameter(value.T if product else value, requires_grad=False))

    def embed(self, role: Role, input_ids: Tensor) -> Tensor:
        """float32 [rows, tokens, d_model]."""
        return nn.functional.embedding(input_ids, self.tensor(self.architecture.embedding(role)))

    def block(self, role: Role, number: int) -> Block:
        """One block with its weights; experts are read when tokens reach them."""
        layer = names.sparse_layer(role, number)
        block = Block(self.build, role, number, lambda expert: self.expert(layer, expert))
        self.load(block, names.block_path(role, number))
        return block

    def expert(self, layer: str, number: int) -> ExpertWeights:
        """The weights of one expert."""
        projections = projection_names(self.architecture)
        *inputs, wo = (self.tensor(names.expert_weight(layer, number, name)).T for name in projections)
        return ExpertWeights(tuple(inputs), wo)

    def fed(self, layer: str, feed_forward: nn.Module, attended: Tensor) -> tuple[Tensor, ExpertsResult | None]:
        """The residual stream behind a feed-forward network, or behind the experts that tokens are assigned to."""
        assert isinstance(feed_forward, FeedForwardLayer)
        chosen = feed_forward.chosen(attended)
        if chosen is None:
            return feed_forward(attended), None
        outputs = [(expert, feed_forward(attended, expert)) for expert in self.assign(layer, *chosen.shape)]
        return outputs[0][1], ExpertsResult(chosen, outputs)

    def bias(self, role: Role, queries: Tensor, keys: Tensor) -> Tensor:
        """The relative bias of a stack, [1, heads, queries, keys]."""
        module = RelativeBias(self.architecture, bidirectional=role == "encoder")
        self.load(module, names.relative_bias(role))
        bias: Tensor = module(queries, keys)
        return bias

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Iterator[BlockResult]:
        """Every encoder block's result in turn."""
        positions = torch.arange(input_ids.shape[1])
        bias = self.bias("encoder", positions, positions) + masked(attention_mask)[:, None, None, :]
        hidden = self.embed("encoder", input_ids)
        for number in range(self.architecture.encoder.layers):
            attention, feed_forward = self.block("encoder", number).layer
            attended, key, value = attention(hidden, bias)
            hidden, experts = self.fed(names.sparse_layer("encoder", number), feed_forward, attended)
            yield BlockResult(attended, key, value, hidden, experts)

    def cross(self, hidden: Tensor) -> Iterator[Pair]:
        """Cross-attention key (transposed) and value of every decoder layer, from the last encoder block's result."""
        states = self.norm("encoder", hidden)
        shape = (*states.shape[:2], self.architecture.num_heads, self.architecture.d_kv)
        for number in range(self.architecture.decoder.layers):
            weights = (self.tensor(f"{names.cross_attention(number)}.{name}.weight") for name in "kv")
            key, value = (nn.functional.linear(states, weight).reshape(shape) for weight in weights)
            yield key.permute(0, 2, 3, 1), value.transpose(1, 2)

    def decode(
        self, input_ids: Tensor, attention_mask: Tensor, cross: Sequence[Pair], past: Sequence[Pair]
    ) -> Iterator[BlockResult]:
        """Every decoder block's result in turn."""
        length, positions = past[0][0].shape[2], input_ids.shape[1]
        keys, queries = torch.arange(length + positions), torch.arange(length, length + positions)
        self_bias = self.bias("decoder", queries, keys) + masked(keys[None, :] <= queries[:, None])
        cross_bias = masked(attention_mask)[:, None, None, :]
        hidden = self.embed("decoder", input_ids)
        for number in range(self.architecture.decoder.layers):
            self_attention, cross_attention, feed_forward = self.block("decoder", number).layer
            hidden, key, value = self_attention(hidden, self_bias, past[number])
            attended = cross_attention(hidden, cross_bias, *cross[number])
            hidden, experts = self.fed(names.sparse_layer("decoder", number), feed_forward, attended)
            yield BlockResult(attended, key, value, hidden, experts)

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 [rows, tokens, vocab] from the last decoder block's result."""
        states, architecture = self.norm("decoder", hidden), self.architecture
        if architecture.tied_head or architecture.scaled_head:
            states = states * architecture.d_model**-0.5
        head = architecture.embedding("decoder") if architecture.tied_head else names.HEAD
        return nn.functional.linear(states, self.tensor(head))

    def norm(self, role: Role, hidden: Tensor) -> Tensor:
        """The norm behind a stack."""
        norm = RMSNorm(self.architecture.d_model, self.architecture.layer_norm_epsilon)
        self.load(norm, names.final_norm(role))
        normed: Tensor = norm(hidden)
        return normed

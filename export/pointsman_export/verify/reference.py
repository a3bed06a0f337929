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

from pointsman.bundle import Stack, names
from pointsman_export.graphs.weights import DTYPES, TensorReader
from pointsman_export.network import Block, Build, Embedding, Linear, Precision, RMSNorm, SparseFeedForward, masked, moe

Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class BlockResult:
    """What a block makes of its input.

    Attributes:
        hidden: float32 [rows, tokens, d_model].
        key: of self-attention, past included, [rows, heads, tokens, d_kv].
        value: likewise.
        expert: int64 [rows, tokens] that the router chose; None in a dense block.
    """

    hidden: Tensor
    key: Tensor
    value: Tensor
    expert: Tensor | None


class Reference:
    """A checkpoint's blocks, built and loaded when they are asked for.

    Args:
        build: of the variant that is checked; computation is in float32 whatever its precision.
        checkpoint: read under canonical names; weights are rounded to the variant's dtype first.
    """

    def __init__(self, build: Build, checkpoint: TensorReader) -> None:
        self.architecture = build.architecture
        self.dtype = build.precision.name
        self.build = Build(build.architecture, "fused", Precision.of("float32"), build.capacity)
        self.checkpoint = checkpoint

    def tensor(self, name: str, *, rounded: bool = True) -> Tensor:
        """A tensor in float32, as the checkpoint orients it."""
        array: Array = self.checkpoint.read(name)
        if rounded:
            array = array.astype(DTYPES[self.dtype][0])
        return torch.from_numpy(array.astype(np.float32))

    def load(self, module: nn.Module, prefix: str) -> None:
        """Fill a module's parameters. Those that every variant keeps in float32 are not rounded."""
        for path, owner in module.named_modules():
            for name in [name for name, _ in owner.named_parameters(recurse=False)]:
                rounded = isinstance(owner, (Linear, Embedding)) and not path.endswith("router.classifier")
                value = self.tensor(".".join(filter(None, (prefix, path, name))), rounded=rounded)
                oriented = value.T if isinstance(owner, Linear) and name == "weight" else value
                owner.register_parameter(name, nn.Parameter(oriented, requires_grad=False))

    def embedding(self, *, decoder: bool) -> Tensor:
        """What a stack looks its ids up in, float32 [vocab, d_model]."""
        separate = self.architecture.separate_embeddings
        return self.tensor(names.STACK_EMBEDDINGS[decoder] if separate else names.EMBEDDING)

    def embed(self, input_ids: Tensor, *, decoder: bool) -> Tensor:
        """float32 [rows, tokens, d_model]."""
        return nn.functional.embedding(input_ids, self.embedding(decoder=decoder))

    def block(self, index: int, *, decoder: bool) -> Block:
        """One block with its weights; experts are read when tokens reach them."""
        stack: Stack = self.architecture.decoder if decoder else self.architecture.encoder
        block = Block(self.build, stack, index, decoder=decoder)
        prefix = f"{'decoder' if decoder else 'encoder'}.block.{index}"
        for module in block.modules():
            if isinstance(module, SparseFeedForward):
                module.drop_overflow = moe.drop_overflow
                module.dispatch = self._dispatch(module)  # type: ignore[method-assign, assignment]
        self.load(block, prefix)
        return block

    def _dispatch(self, layer: SparseFeedForward) -> Callable[[Tensor, Tensor], Tensor]:
        def expert_weights(number: int) -> tuple[tuple[Tensor, ...], Tensor]:
            prefix = f"{layer.path}.experts.expert_{number}"
            inputs = tuple(self.tensor(f"{prefix}.{name}.weight").T for name in layer.inputs)
            return inputs, self.tensor(f"{prefix}.wo.weight").T

        def dispatch(hidden: Tensor, expert: Tensor) -> Tensor:
            layer.chosen = expert
            return moe.loop_dispatch(hidden, expert, expert_weights, layer.activation)

        return dispatch

    def bias(self, queries: Tensor, keys: Tensor, *, decoder: bool) -> Tensor:
        """The stack's relative bias."""
        return self.block(0, decoder=decoder).position_bias(queries, keys)

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Iterator[BlockResult]:
        """Every encoder block's result in turn."""
        positions = torch.arange(input_ids.shape[1])
        bias = self.bias(positions, positions, decoder=False) + masked(attention_mask)[:, None, None, :]
        hidden = self.embed(input_ids, decoder=False)
        for index in range(self.architecture.encoder.layers):
            attention, feed_forward = self.block(index, decoder=False).layer
            hidden, key, value = attention(hidden, bias)
            hidden = feed_forward(hidden)
            yield BlockResult(hidden, key, value, getattr(feed_forward.mlp, "chosen", None))

    def cross(self, hidden: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Cross-attention key (transposed) and value of every decoder layer, from the last encoder block's result."""
        states = self.norm("encoder.final_layer_norm", hidden)
        architecture = self.architecture
        shape = (*states.shape[:2], architecture.num_heads, architecture.d_kv)
        for index in range(architecture.decoder.layers):
            prefix = f"decoder.block.{index}.layer.1.EncDecAttention"
            key, value = (
                nn.functional.linear(states, self.tensor(f"{prefix}.{name}.weight")).reshape(shape) for name in "kv"
            )
            yield key.permute(0, 2, 3, 1), value.transpose(1, 2)

    def decode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        cross: Sequence[tuple[Tensor, Tensor]],
        past: Sequence[tuple[Tensor, Tensor]],
    ) -> Iterator[BlockResult]:
        """Every decoder block's result in turn; `past` is reordered already."""
        length, positions = past[0][0].shape[2], input_ids.shape[1]
        keys, queries = torch.arange(length + positions), torch.arange(length, length + positions)
        self_bias = self.bias(queries, keys, decoder=True) + masked(keys[None, :] <= queries[:, None])
        cross_bias = masked(attention_mask)[:, None, None, :]
        hidden = self.embed(input_ids, decoder=True)
        for index in range(self.architecture.decoder.layers):
            self_attention, cross_attention, feed_forward = self.block(index, decoder=True).layer
            hidden, key, value = self_attention(hidden, self_bias, past[index])
            hidden = feed_forward(cross_attention(hidden, cross_bias, *cross[index]))
            yield BlockResult(hidden, key, value, getattr(feed_forward.mlp, "chosen", None))

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 [rows, tokens, vocab] from the last decoder block's result."""
        states, architecture = self.norm("decoder.final_layer_norm", hidden), self.architecture
        if architecture.tied_head or architecture.scaled_head:
            states = states * architecture.d_model**-0.5
        head = self.embedding(decoder=True) if architecture.tied_head else self.tensor(names.HEAD)
        return nn.functional.linear(states, head)

    def norm(self, name: str, hidden: Tensor) -> Tensor:
        """A final norm."""
        norm = RMSNorm(self.architecture.d_model, self.architecture.layer_norm_epsilon)
        self.load(norm, name)
        normed: Tensor = norm(hidden)
        return normed

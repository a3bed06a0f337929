"""The two graphs of a Switch Transformer as torch modules: the encoder, and one step of the decoder.

No hidden states cross the border: the encoder ends in the cross-attention keys and values of every decoder layer, so
they are computed once per request and never again.
"""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from pointsman.bundle import Architecture, Stack
from pointsman_export.network import Block, Build, Embedding, Linear, RMSNorm, masked
from pointsman_export.network.block import traced_blocks

LABEL_OP = "pointsman::Label"


def label(hidden: Tensor, name: str) -> Tensor:
    """Name a value; `graphs` turns the node into the ONNX value's name."""
    return torch.onnx.ops.symbolic(
        LABEL_OP, (hidden,), {"name": name}, dtype=hidden.dtype, shape=hidden.shape, version=1
    )


def all_blocks(stack: Stack) -> range:
    """Numbers of all blocks."""
    return range(stack.layers)


def _embedding(build: Build) -> Embedding:
    return Embedding(build.architecture.vocab_size, build.architecture.d_model, build.precision.compute)


class BlockStack(nn.Module):
    """The blocks of an encoder or a decoder, by number, the norm after them, and an embedding if it is its own."""

    def __init__(self, build: Build, stack: Stack, numbers: Iterable[int], *, decoder: bool) -> None:
        super().__init__()
        if build.architecture.separate_embeddings:
            self.embed_tokens = _embedding(build)
        self.block = nn.ModuleDict({str(number): Block(build, stack, number, decoder=decoder) for number in numbers})
        self.final_layer_norm = RMSNorm(build.architecture.d_model, build.architecture.layer_norm_epsilon)

    def position_bias(self, queries: Tensor, keys: Tensor) -> Tensor:
        """The stack's relative bias, [1, heads, queries, keys]; only block 0 holds its weights."""
        return cast("Block", self.block["0"]).position_bias(queries, keys)


class Network(nn.Module):
    """The modules of a Switch Transformer under the names of its checkpoint.

    Args:
        build: sizes, form, precision, capacity.
        whole: whether to make all blocks, or only the examples of each kind that are traced.
    """

    def __init__(self, build: Build, *, whole: bool = True) -> None:
        super().__init__()
        architecture = build.architecture
        self.architecture: Architecture = architecture
        if not architecture.separate_embeddings:
            self.shared = _embedding(build)
        numbers = all_blocks if whole else traced_blocks
        self.encoder = BlockStack(build, architecture.encoder, numbers(architecture.encoder), decoder=False)
        self.decoder = BlockStack(build, architecture.decoder, numbers(architecture.decoder), decoder=True)
        if not architecture.tied_head:
            self.lm_head = Linear(architecture.d_model, architecture.vocab_size, build.precision.compute)

    def embedding(self, stack: BlockStack) -> Embedding:
        """What a stack looks its ids up in."""
        return stack.embed_tokens if self.architecture.separate_embeddings else self.shared

    def head(self, hidden: Tensor) -> Tensor:
        """Float32 [rows, positions, d_model] to float32 logits [rows, positions, vocab]."""
        architecture = self.architecture
        if architecture.tied_head or architecture.scaled_head:
            hidden = hidden * architecture.d_model**-0.5
        if not architecture.tied_head:
            logits: Tensor = self.lm_head(hidden)
            return logits.to(torch.float32)
        rows, positions, d_model = hidden.shape
        weight = self.embedding(self.decoder).weight
        flat = hidden.to(weight.dtype).reshape(rows * positions, d_model)
        tied = nn.functional.linear(flat, weight)
        return tied.reshape(rows, positions, -1).to(torch.float32)


class EncoderGraph(Network):
    """Token ids and mask to the cross-attention keys and values of every decoder layer."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
        """Encode.

        Args:
            input_ids: int64 [batch, source].
            attention_mask: int64 [batch, source], 1 for a token and 0 for padding.

        Returns:
            key and value of decoder layer 0, of layer 1, ..., in the compute dtype: keys are transposed,
            [batch, heads, d_kv, source], values [batch, heads, source, d_kv].
        """
        positions = torch.arange(input_ids.shape[1])
        bias = self.encoder.position_bias(positions, positions) + masked(attention_mask)[:, None, None, :]
        hidden = self.embedding(self.encoder)(input_ids)
        for number, block in self.encoder.block.items():
            attention, feed_forward = block.layer  # type: ignore[misc]
            hidden, _, _ = attention(hidden, bias)
            hidden = label(feed_forward(hidden), f"encoder.block.{number}")
        return self.cross_keys_values(self.encoder.final_layer_norm(hidden))

    def cross_keys_values(self, states: Tensor) -> list[Tensor]:
        """Project the encoder's states for every decoder layer."""
        outputs = []
        for block in self.decoder.block.values():
            outputs += block.layer[1].EncDecAttention(states)  # type: ignore[union-attr, index]
        return outputs


class DecoderGraph(Network):
    """One decoder step over a cache: token ids to logits, and the cache grown by those tokens."""

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, beam_rows: Tensor, cross: list[Tensor], past: list[Tensor]
    ) -> list[Tensor]:
        """Decode `positions` more tokens of every row; usually one.

        Args:
            input_ids: int64 [rows, positions]; rows = batch x beams, beams of one input side by side.
            attention_mask: int64 [batch, source], of the encoder's input.
            beam_rows: int64 [rows], the row of `past` that each row continues.
            cross: the encoder's outputs.
            past: key and value of layer 0, of layer 1, ...: compute dtype, [rows, heads, past, d_kv] each.

        Returns:
            logits, float32 [rows, positions, vocab]; then the cache, like `past`, [rows, heads, past + positions,
            d_kv].
        """
        positions, past_length = input_ids.shape[1], past[0].shape[2]
        keys = torch.arange(past_length + positions)
        queries = torch.arange(positions) + past_length
        self_bias = self.decoder.position_bias(queries, keys) + masked(keys[None, :] <= queries[:, None])
        cross_bias = masked(attention_mask)[:, None, None, :]
        hidden, present = self.embedding(self.decoder)(input_ids), []
        for index, (number, block) in enumerate(self.decoder.block.items()):
            self_attention, cross_attention, feed_forward = block.layer  # type: ignore[misc]
            pair = slice(2 * index, 2 * index + 2)
            hidden, key, value = self_attention(hidden, self_bias, past[pair], beam_rows)
            hidden = cross_attention(hidden, cross_bias, *cross[pair])
            hidden = label(feed_forward(hidden), f"decoder.block.{number}")
            present += [key, value]
        return [self.head(self.decoder.final_layer_norm(hidden)), *present]

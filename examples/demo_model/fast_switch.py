"""A Switch Transformer written for fast training on a CPU, equal in its mathematics to the published model.

Follows Fedus et al. 2021 ("Switch Transformers", top-1 routing, load-balancing loss), Zoph et al. 2022
("ST-MoE", router z-loss) and T5 (RMS norms, unscaled attention with bucketed relative bias).  What differs from
a plain implementation is only the layout: projections are stored as banks, experts as one batched tensor, every
shape is static (each expert has a fixed number of slots), and matrix products run in bfloat16 while weights,
residual stream, norms and router stay float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as fn
from torch import Tensor, nn


@dataclass(frozen=True)
class Sizes:
    """Architecture; every second block (1, 3, ...) is sparse, as in the published checkpoints."""

    vocab: int = 4096
    d_model: int = 256
    d_kv: int = 48
    heads: int = 4
    d_ff: int = 320
    layers: int = 4
    experts: int = 8
    buckets: int = 32
    max_distance: int = 128
    epsilon: float = 1e-6
    # Slots an expert has during training, relative to an even split of the batch; the published per-sequence
    # capacity (64) never binds at these lengths, so a token past its expert's slots is the rare exception.
    slack: float = 1.5

    @property
    def inner(self) -> int:
        """Width of all attention heads together."""
        return self.heads * self.d_kv

    def sparse(self, block: int) -> bool:
        """Whether the FFN of this block is a mixture of experts."""
        return block % 2 == 1


def bucket_table(sizes: Sizes, queries: int, keys: int, *, bidirectional: bool) -> Tensor:
    """Relative-position buckets [queries, keys], in T5's order of operations."""
    relative = torch.arange(keys)[None, :] - torch.arange(queries)[:, None]
    count, base = sizes.buckets, torch.zeros_like(relative)
    if bidirectional:
        count //= 2
        base = (relative > 0).long() * count
        distance = relative.abs()
    else:
        distance = (-relative).clamp_min(0)
    exact = count // 2
    log_ratio = torch.log(distance.float() / exact) / math.log(sizes.max_distance / exact)
    far = (exact + (log_ratio * (count - exact)).clamp_min(0).long()).clamp_max(count - 1)
    return base + torch.where(distance < exact, distance, far)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Product of x [..., in] with weight [out, in] in bfloat16."""
    return fn.linear(x.bfloat16(), weight.bfloat16())


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Root mean square norm of x [..., d_model]: no mean subtracted, no bias."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon) * weight


class Move(torch.autograd.Function):
    """Row permutation between tokens and expert slots whose gradient is the inverse permutation.

    A generic gather would make its backward a scatter-add; as every slot holds at most one token, the inverse
    is again a gather.  Index ``len(rows)`` stands for an empty place and yields zeros.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, inverse: Tensor) -> Tensor:  # noqa: ANN401
        """Rows [n, d] picked by index [m]; index n gives zeros."""
        ctx.save_for_backward(index, inverse)
        return fn.pad(rows, (0, 0, 0, 1)).index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        """Gradient [m, d] picked by the inverse [n]."""
        _, inverse = ctx.saved_tensors
        return fn.pad(grads[0], (0, 0, 0, 1)).index_select(0, inverse), None, None


class Attention(nn.Module):
    """Multi-head attention; weights as one bank [4, inner, d_model] in the order q, k, v, o (o transposed)."""

    def __init__(self, sizes: Sizes, generator: torch.Generator, *, matching: bool = False) -> None:
        super().__init__()
        self.sizes = sizes
        bank = torch.randn(4, sizes.inner, sizes.d_model, generator=generator) * sizes.d_model**-0.5
        bank[:2] *= sizes.d_kv**-0.25  # attention is not scaled: let q and k carry the 1/sqrt(d_kv)
        if matching:
            # Equal q and k prefer equal vectors: from the start a sentinel in the decoder looks at the same
            # sentinel in the encoder.  Without this the encoder stayed unused for the first 12 M tokens.
            bank[0] *= 1.2
            bank[1] = bank[0]
        bank[3] *= 0.5
        self.bank = nn.Parameter(bank)

    def split(self, x: Tensor) -> Tensor:
        """[batch, length, parts * inner] to [parts, batch, heads, length, d_kv]."""
        batch, length, width = x.shape
        shape = (batch, length, width // self.sizes.inner, self.sizes.heads, self.sizes.d_kv)
        return x.view(shape).permute(2, 0, 3, 1, 4)

    def forward(self, x: Tensor, memory: Tensor | None, bias: Tensor | None) -> Tensor:
        """Attend from x [B, L, d_model] to itself, or to memory [B, S, d_model]; bias [1, heads, L, L]."""
        inner = self.sizes.inner
        if memory is None:
            query, key, value = self.split(product(x, self.bank[:3].reshape(3 * inner, -1))).unbind(0)
        else:
            query = self.split(product(x, self.bank[0]))[0]
            key, value = self.split(product(memory, self.bank[1:3].reshape(2 * inner, -1))).unbind(0)
        scores = torch.matmul(query, key.transpose(-1, -2)).float()
        if bias is not None:
            scores = scores + bias
        mixed = torch.matmul(fn.softmax(scores, dim=-1).bfloat16(), value)
        joined = mixed.transpose(1, 2).reshape(x.shape[0], x.shape[1], inner)
        return torch.matmul(joined, self.bank[3].bfloat16()).float()


class Dense(nn.Module):
    """relu FFN; weights as one bank [2, d_ff, d_model]: wi and wo transposed."""

    def __init__(self, sizes: Sizes, generator: torch.Generator) -> None:
        super().__init__()
        bank = torch.randn(2, sizes.d_ff, sizes.d_model, generator=generator) * sizes.d_model**-0.5
        bank[1] *= 0.5
        self.bank = nn.Parameter(bank)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Output [B, L, d_model]; the router losses of a dense layer are zero."""
        hidden = fn.relu(product(x, self.bank[0]))
        zero = x.new_zeros(())
        return torch.matmul(hidden, self.bank[1].bfloat16()).float(), zero, zero


class Sparse(nn.Module):
    """Top-1 mixture of experts; weights as one bank [2, experts, d_ff, d_model]."""

    def __init__(self, sizes: Sizes, generator: torch.Generator) -> None:
        super().__init__()
        self.sizes = sizes
        shape = (2, sizes.experts, sizes.d_ff, sizes.d_model)
        bank = torch.randn(shape, generator=generator) * sizes.d_model**-0.5
        self.bank = nn.Parameter(bank)
        router = torch.randn(sizes.experts, sizes.d_model, generator=generator) * sizes.d_model**-0.5
        self.router = nn.Parameter(router)

    def places(self, choice: Tensor, slots: int) -> tuple[Tensor, Tensor]:
        """Token of each slot [experts * slots] and slot of each token [tokens]; the size marks 'none'."""
        tokens, experts = choice.numel(), self.sizes.experts
        one_hot = fn.one_hot(choice, experts)
        rank = (one_hot.cumsum(0) * one_hot).sum(-1) - 1
        slot = torch.where(rank < slots, choice * slots + rank, experts * slots)
        holder = torch.full((experts * slots + 1,), tokens, dtype=torch.long)
        holder = holder.scatter(0, slot, torch.arange(tokens))
        return holder[:-1], slot

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Output [B, L, d_model], load-balancing loss (1 when even) and router z-loss."""
        sizes = self.sizes
        flat = x.reshape(-1, sizes.d_model)
        logits = fn.linear(flat, self.router)
        probabilities = fn.softmax(logits, dim=-1)
        top, choice = probabilities.max(dim=-1)
        slots = min(math.ceil(sizes.slack * len(flat) / sizes.experts / 32) * 32, len(flat))
        holder, slot = self.places(choice.detach(), slots)
        packed: Tensor = Move.apply(flat.bfloat16(), holder, slot)  # type: ignore[no-untyped-call]
        packed = packed.view(sizes.experts, slots, sizes.d_model)
        bank = self.bank.bfloat16()
        hidden = fn.relu(torch.bmm(packed, bank[0].transpose(1, 2)))
        out = torch.bmm(hidden, bank[1]).view(-1, sizes.d_model)
        back: Tensor = Move.apply(out, slot, holder)  # type: ignore[no-untyped-call]
        used = fn.one_hot(choice, sizes.experts).float().mean(0)
        balance = sizes.experts * (used.detach() * probabilities.mean(0)).sum()
        z_loss = torch.logsumexp(logits, dim=-1).pow(2).mean()
        return (back.float() * top[:, None]).view_as(x), balance, z_loss


class Block(nn.Module):
    """Pre-norm block: self-attention, cross-attention in the decoder, then a dense or sparse FFN."""

    def __init__(self, sizes: Sizes, block: int, generator: torch.Generator, *, decoder: bool) -> None:
        super().__init__()
        self.epsilon = sizes.epsilon
        self.attention = Attention(sizes, generator)
        self.cross = Attention(sizes, generator, matching=True) if decoder else None
        self.ffn = Sparse(sizes, generator) if sizes.sparse(block) else Dense(sizes, generator)
        self.norms = nn.Parameter(torch.ones(3 if decoder else 2, sizes.d_model))

    def forward(self, x: Tensor, bias: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Residual stream [B, L, d_model] after the block, balance loss and z-loss."""
        x = x + self.attention(rms_norm(x, self.norms[0], self.epsilon), None, bias)
        if self.cross is not None:
            x = x + self.cross(rms_norm(x, self.norms[1], self.epsilon), memory, None)
        update, balance, z_loss = self.ffn(rms_norm(x, self.norms[-1], self.epsilon))
        return x + update, balance, z_loss


class Stack(nn.Module):
    """Encoder or decoder stack with one relative bias table [buckets, heads]."""

    def __init__(self, sizes: Sizes, generator: torch.Generator, *, decoder: bool) -> None:
        super().__init__()
        self.sizes, self.decoder = sizes, decoder
        self.blocks = nn.ModuleList([Block(sizes, i, generator, decoder=decoder) for i in range(sizes.layers)])
        self.bias = nn.Parameter(self.near(sizes, decoder=decoder))
        self.norm = nn.Parameter(torch.ones(sizes.d_model))

    @staticmethod
    def near(sizes: Sizes, *, decoder: bool) -> Tensor:
        """First bias table [buckets, heads]: previous token, next token, neighbourhood; other heads are free.

        Bucket 1 is the previous token; in the encoder the buckets of later tokens start at buckets / 2.
        """
        table = torch.zeros(sizes.buckets, sizes.heads)
        half = sizes.buckets if decoder else sizes.buckets // 2
        table[1, 0] = 5.0
        table[2 if decoder else half + 1, 1] = 5.0
        table[:, 2] = -0.6 * (torch.arange(sizes.buckets) % half)
        return table

    def forward(self, x: Tensor, buckets: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Normed output [B, L, d_model] and the summed router losses; buckets [L, L]."""
        length = x.shape[1]
        # A one-hot product instead of a lookup: the lookup's gradient would be a serial scatter-add.
        chosen = fn.one_hot(buckets, self.sizes.buckets).float() @ self.bias
        bias = chosen.permute(2, 0, 1)[None]
        if self.decoder:
            bias = bias + torch.full((length, length), -1e9).triu(1)
        balance = z_loss = x.new_zeros(())
        for block in self.blocks:
            x, b, z = block(x, bias, memory)
            balance, z_loss = balance + b, z_loss + z
        return rms_norm(x, self.norm, self.sizes.epsilon), balance, z_loss


class FastSwitch(nn.Module):
    """Encoder-decoder with tied embedding; returns the losses of one batch."""

    def __init__(self, sizes: Sizes, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.sizes = sizes
        self.shared = nn.Parameter(torch.randn(sizes.vocab, sizes.d_model, generator=generator) * 0.3)
        self.encoder = Stack(sizes, generator, decoder=False)
        self.decoder = Stack(sizes, generator, decoder=True)

    def run(self, inputs: Tensor, targets: Tensor, both: Tensor, causal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [B * T, vocab], balance and z-loss; bucket tables [S, S] and [T, T]."""
        memory, b0, z0 = self.encoder(fn.embedding(inputs, self.shared), both, None)
        begun = fn.pad(targets, (1, 0))[:, :-1]  # the decoder starts with pad (0)
        hidden, b1, z1 = self.decoder(fn.embedding(begun, self.shared), causal, memory)
        scaled = hidden.reshape(-1, self.sizes.d_model) * self.sizes.d_model**-0.5
        return product(scaled, self.shared).float(), b0 + b1, z0 + z1

    def forward(self, inputs: Tensor, targets: Tensor, both: Tensor, causal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean loss over all targets, balance and z-loss; inputs [B, S], targets [B, T]."""
        logits, balance, z_loss = self.run(inputs, targets, both, causal)
        return fn.cross_entropy(logits, targets.reshape(-1)), balance, z_loss

    def token_losses(self, inputs: Tensor, targets: Tensor, both: Tensor, causal: Tensor) -> Tensor:
        """Loss of each target [B, T]."""
        logits, _, _ = self.run(inputs, targets, both, causal)
        return fn.cross_entropy(logits, targets.reshape(-1), reduction="none").view_as(targets)


def named_views(model: FastSwitch) -> dict[str, Tensor]:
    """Views of the weights under the names of the original checkpoints (google/switch-base-8)."""
    out: dict[str, Tensor] = {"shared.weight": model.shared}
    for name, stack in (("encoder", model.encoder), ("decoder", model.decoder)):
        out[f"{name}.final_layer_norm.weight"] = stack.norm
        table = f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        out[table] = stack.bias
        for index, block in enumerate(stack.blocks):
            assert isinstance(block, Block)
            out.update(_block_tensors(block, f"{name}.block.{index}.layer"))
    return out


def export_tensors(model: FastSwitch) -> dict[str, Tensor]:
    """Checkpoint tensors: bfloat16, but the routers in float32, whose precision decides which expert is chosen."""
    views = named_views(model)
    kept = {n: t.detach().to(torch.float32 if "router" in n else torch.bfloat16) for n, t in views.items()}
    return {n: t.contiguous().clone() for n, t in kept.items()}


@torch.no_grad()
def import_tensors(model: FastSwitch, tensors: dict[str, Tensor], *, decoder_only: bool = False) -> None:
    """Copy checkpoint tensors into the model: all, or embedding and decoder without its cross-attention."""
    for name, view in named_views(model).items():
        reads_encoder = name.startswith("encoder.") or "EncDecAttention" in name
        if not (decoder_only and reads_encoder):
            view.copy_(tensors[name])


def _block_tensors(block: Block, prefix: str) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    attentions = [("SelfAttention", block.attention)]
    if block.cross is not None:
        attentions.append(("EncDecAttention", block.cross))
    for layer, (kind, attention) in enumerate(attentions):
        for index, letter in enumerate("qkv"):
            out[f"{prefix}.{layer}.{kind}.{letter}.weight"] = attention.bank[index]
        out[f"{prefix}.{layer}.{kind}.o.weight"] = attention.bank[3].T
    last = f"{prefix}.{len(attentions)}.mlp"
    if isinstance(block.ffn, Sparse):
        out[f"{last}.router.classifier.weight"] = block.ffn.router
        for expert in range(block.ffn.sizes.experts):
            out[f"{last}.experts.expert_{expert}.wi.weight"] = block.ffn.bank[0, expert]
            out[f"{last}.experts.expert_{expert}.wo.weight"] = block.ffn.bank[1, expert].T
    else:
        out[f"{last}.wi.weight"], out[f"{last}.wo.weight"] = block.ffn.bank[0], block.ffn.bank[1].T
    for layer in range(len(attentions) + 1):
        out[f"{prefix}.{layer}.layer_norm.weight"] = block.norms[layer]
    return out

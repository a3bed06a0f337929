"""Self-attention over a cache, and attention over the encoder."""

import torch
from torch import Tensor, nn

from pointsman.bundle import Architecture
from pointsman_export.network.layers import Linear, RMSNorm

Pair = tuple[Tensor, Tensor]


def masked(keep: Tensor) -> Tensor:
    """An additive mask: 0 where `keep`, the lowest float32 elsewhere, as transformers adds it."""
    return (1.0 - keep.to(torch.float32)) * torch.finfo(torch.float32).min


class Attention(nn.Module):
    """Attention to keys and values that are there."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.heads, self.d_kv = architecture.num_heads, architecture.d_kv
        inner = self.heads * self.d_kv
        self.q = Linear(architecture.d_model, inner)
        self.o = Linear(inner, architecture.d_model)

    def split(self, projected: Tensor) -> Tensor:
        """[rows, tokens, heads * d_kv] to [rows, heads, tokens, d_kv]."""
        return projected.reshape(*projected.shape[:2], self.heads, self.d_kv).transpose(1, 2)

    def attend(self, queries: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """Unscaled attention with an additive bias.

        Args:
            queries: [rows, tokens, heads * d_kv].
            key: [rows, heads, keys, d_kv].
            value: likewise.
            bias: broadcast to [rows, heads, tokens, keys].

        Returns:
            [rows, tokens, d_model].
        """
        weights = torch.softmax(self.split(queries) @ key.transpose(2, 3) + bias, dim=-1)
        projected: Tensor = self.o((weights @ value).transpose(1, 2).flatten(2))
        return projected


class SelfAttention(Attention):
    """Attention to keys and values of the same tokens."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        inner = self.heads * self.d_kv
        self.k = Linear(architecture.d_model, inner)
        self.v = Linear(architecture.d_model, inner)


class SelfAttentionLayer(nn.Module):
    """Norm, self-attention, residual."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.SelfAttention = SelfAttention(architecture)
        self.layer_norm = RMSNorm(architecture.d_model, architecture.layer_norm_epsilon)

    def forward(self, hidden: Tensor, bias: Tensor, past: Pair | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Add what the tokens attend to; also return keys and values, those of `past` first."""
        attention, normed = self.SelfAttention, self.layer_norm(hidden)
        key, value = attention.split(attention.k(normed)), attention.split(attention.v(normed))
        if past is not None:
            key, value = (torch.cat(both, dim=2) for both in zip(past, (key, value), strict=True))
        return hidden + attention.attend(attention.q(normed), key, value, bias), key, value


class CrossAttentionLayer(nn.Module):
    """Norm, attention over the encoder's keys and values, residual."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.EncDecAttention = Attention(architecture)
        self.layer_norm = RMSNorm(architecture.d_model, architecture.layer_norm_epsilon)

    def forward(self, hidden: Tensor, bias: Tensor, transposed_key: Tensor, value: Tensor) -> Tensor:
        """Add what the tokens attend to; rows are beams, those of one input side by side."""
        beams = hidden.shape[0] // value.shape[0]
        key = transposed_key.transpose(2, 3)
        of_rows = [each.repeat_interleave(beams, dim=0) for each in (key, value, bias)]
        attention = self.EncDecAttention
        attended: Tensor = attention.attend(attention.q(self.layer_norm(hidden)), *of_rows)
        return hidden + attended

"""Self-attention over a cache, and attention over the encoder."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pointsman_export.network.build import Build
from pointsman_export.network.layers import Linear, RMSNorm
from pointsman_export.network.positions import RelativeBias


def masked(keep: Tensor) -> Tensor:
    """An additive mask: 0 where `keep`, the lowest float32 elsewhere, as the reference adds it."""
    return (1.0 - keep.to(torch.float32)) * torch.finfo(torch.float32).min


def attend(query: Tensor, transposed_key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Unscaled attention with an additive bias; the softmax runs in float32.

    Args:
        query: [batch, heads, queries, d_kv].
        transposed_key: [batch, heads, d_kv, keys].
        value: [batch, heads, keys, d_kv].
        bias: float32, broadcast to [batch, heads, queries, keys].

    Returns:
        [batch, heads, queries, d_kv].
    """
    scores = (query @ transposed_key).to(torch.float32) + bias
    return torch.softmax(scores, dim=-1).to(value.dtype) @ value


class Attention(nn.Module):
    """The four projections of one attention layer."""

    def __init__(self, build: Build, *, bias: RelativeBias | None = None) -> None:
        super().__init__()
        architecture, dtype = build.architecture, build.precision.compute
        self.heads, self.d_kv = architecture.num_heads, architecture.d_kv
        inner = self.heads * self.d_kv
        self.q = Linear(architecture.d_model, inner, dtype)
        self.k = Linear(architecture.d_model, inner, dtype)
        self.v = Linear(architecture.d_model, inner, dtype)
        self.o = Linear(inner, architecture.d_model, dtype)
        if bias is not None:
            self.relative_attention_bias = bias

    def split(self, projected: Tensor, rows: int) -> Tensor:
        """[..., heads * d_kv] to [rows, heads, tokens, d_kv]; beams of one input may be folded into its tokens."""
        return projected.reshape(rows, -1, self.heads, self.d_kv).transpose(1, 2)

    def merge(self, attended: Tensor, shape: torch.Size) -> Tensor:
        """[rows, heads, tokens, d_kv] to [*shape, heads * d_kv]."""
        return attended.transpose(1, 2).reshape(*shape, self.heads * self.d_kv)

    def project(self, joined: Tensor) -> Tensor:
        """[..., heads * d_kv] back to the residual's width and float32."""
        projected: Tensor = self.o(joined)
        return projected.to(torch.float32)


class SelfAttentionLayer(nn.Module):
    """Norm, self-attention, residual."""

    def __init__(self, build: Build, bias: RelativeBias | None) -> None:
        super().__init__()
        self.in_one_node = build.attention_in_one_node
        self.SelfAttention = Attention(build, bias=bias)
        self.layer_norm = RMSNorm(build.architecture.d_model, build.architecture.layer_norm_epsilon)

    def forward(
        self,
        hidden: Tensor,
        bias: Tensor,
        past: Sequence[Tensor] | None = None,
        beam_rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Add what the tokens attend to; also return keys and values, those of `past` first.

        `past` is keys and values; `beam_rows` tells which row of them each row continues, where that is not its own.
        """
        attention, normed = self.SelfAttention, self.layer_norm(hidden)
        projected = [project(normed) for project in (attention.q, attention.k, attention.v)]
        earlier = past if past is None or beam_rows is None else [cache.index_select(0, beam_rows) for cache in past]
        attend_to = self._in_one_node if self.in_one_node else self._in_parts
        attended, key, value = attend_to(projected, bias, earlier)
        return hidden + attention.project(attended), key, value

    def _in_parts(
        self, projected: Sequence[Tensor], bias: Tensor, past: Sequence[Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What queries, keys and values [rows, tokens, heads * d_kv] attend to, likewise; all keys and values."""
        query, key, value = (self.SelfAttention.split(each, each.shape[0]) for each in projected)
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        attended = attend(query, key.transpose(2, 3), value, bias)
        return self.SelfAttention.merge(attended, projected[0].shape[:2]), key, value

    def _in_one_node(
        self, projected: Sequence[Tensor], bias: Tensor, past: Sequence[Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same as one `Attention` node of ONNX (opset 23)."""
        (query, key, value), (past_key, past_value) = projected, past or (None, None)
        heads = self.SelfAttention.heads
        attended, key, value, _ = torch.onnx.ops.attention(
            query, key, value, bias, past_key, past_value, q_num_heads=heads, kv_num_heads=heads, scale=1.0
        )
        return attended, key, value


class CrossAttention(Attention):
    """Attention over the encoder's states, whose keys and values are computed once."""

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys, transposed, [batch, heads, d_kv, source], and values, [batch, heads, source, d_kv], of the states."""
        key, value = (self.split(project(states), states.shape[0]) for project in (self.k, self.v))
        return key.transpose(2, 3), value


class CrossAttentionLayer(nn.Module):
    """Norm, attention over the encoder's keys and values, residual."""

    def __init__(self, build: Build) -> None:
        super().__init__()
        self.EncDecAttention = CrossAttention(build)
        self.layer_norm = RMSNorm(build.architecture.d_model, build.architecture.layer_norm_epsilon)

    def forward(self, hidden: Tensor, bias: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend with all beams of an input at once, so that its keys and values are read once, not per beam.

        `key` is [batch, heads, d_kv, source]: transposed once by the encoder instead of in every step.
        """
        attention = self.EncDecAttention
        query = attention.split(attention.q(self.layer_norm(hidden)), key.shape[0])
        attended = attention.merge(attend(query, key, value, bias), hidden.shape[:2])
        return hidden + attention.project(attended)

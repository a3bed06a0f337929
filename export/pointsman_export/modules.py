"""A Switch Transformer as small torch modules whose parameter names are the checkpoint's.

Two things differ from the checkpoint's layout: linear weights are stored [in, out], as ONNX MatMul wants them, and the
experts of a layer are stacked, [experts, in, out]. Modules are built on the meta device: tracing needs no weights.

Numerics: matrix products run in `Precision.compute`; the residual stream, norms, softmax and router stay in float32.
The reference is transformers 5.23.0, `modeling_switch_transformers`; gated experts follow T5 v1.1's
`T5DenseGatedActDense`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pointsman.manifest import Architecture, Dtype, Form, Stack
from pointsman_export import moe


@dataclass(frozen=True, slots=True)
class Precision:
    """How a variant computes.

    Attributes:
        name: of the compute dtype.
        compute: dtype of matrix products, of the caches and of the stored weights.
        wo_scale: a power of two that the input of `wo` is multiplied by, and its float32 output divided by: the
            feed-forward output of T5 exceeds float16's range.
    """

    name: Dtype
    compute: torch.dtype
    wo_scale: float

    @classmethod
    def of(cls, dtype: Dtype) -> "Precision":
        """The precision of a variant named by its dtype."""
        return cls(dtype, getattr(torch, dtype), wo_scale=2.0**-6 if dtype == "float16" else 1.0)


@dataclass(frozen=True, slots=True)
class Build:
    """What all modules of one graph share.

    Attributes:
        architecture: sizes.
        form: which expert dispatch.
        precision: dtypes.
        capacity: tokens an expert accepts from one sequence; None for no limit.
    """

    architecture: Architecture
    form: Form
    precision: Precision
    capacity: int | None

    @property
    def attention_in_one_node(self) -> bool:
        """Whether self-attention is ONNX's `Attention`: faster on ONNX Runtime than its parts.

        Not in other precisions, where the parts run in different ones.
        """
        return self.form == "fused" and self.precision.name == "float32"


def activation_function(name: str) -> moe.Activation:
    """The activation that an architecture names; `gelu_tanh` is T5 v1.1's `gelu_new`."""
    if name == "gelu_tanh":
        return lambda x: nn.functional.gelu(x, approximate="tanh")
    functions: dict[str, moe.Activation] = {"relu": torch.relu, "gelu": nn.functional.gelu, "silu": nn.functional.silu}
    return functions[name]


def relative_buckets(distance: Tensor, *, bidirectional: bool, buckets: int, max_distance: int) -> Tensor:
    """T5's bucket of each key position relative to its query.

    Raffel et al. 2020, §2.1; the order of operations is that of Mesh TensorFlow's `_relative_position_bucket`, since
    folding its constants moves some distances by one bucket.

    Args:
        distance: int64, any shape: key position minus query position.
        bidirectional: whether keys after the query get buckets of their own.
        buckets: how many there are.
        max_distance: all distances from here on share the last bucket.

    Returns:
        int64 in [0, buckets), the shape of `distance`.
    """
    offset = torch.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        offset = (distance > 0).long() * buckets
        distance = distance.abs()
    else:
        distance = -torch.clamp(distance, max=0)
    exact = buckets // 2
    far = torch.log(distance.float() / exact) / math.log(max_distance / exact) * (buckets - exact)
    far = torch.clamp(exact + torch.clamp(far, min=0).long(), max=buckets - 1)
    return offset + torch.where(distance < exact, distance, far)


def bucket_table(architecture: Architecture, *, bidirectional: bool) -> Tensor:
    """The bucket of every distance from -max_distance to max_distance, int64; farther ones share the ends."""
    reach = architecture.relative_max_distance
    return relative_buckets(
        torch.arange(-reach, reach + 1),
        bidirectional=bidirectional,
        buckets=architecture.relative_buckets,
        max_distance=reach,
    )


class Linear(nn.Module):
    """A product with a weight stored [in, out], in the compute dtype."""

    def __init__(self, inputs: int, outputs: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs, dtype=dtype), requires_grad=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden.to(self.weight.dtype) @ self.weight


class Embedding(nn.Module):
    """Token vectors, [vocab, d_model] as in the checkpoint."""

    def __init__(self, vocab: int, size: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab, size, dtype=dtype), requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.embedding(ids, self.weight).to(torch.float32)


class RMSNorm(nn.Module):
    """Root-mean-square norm in float32 (Zhang and Sennrich 2019): no mean, no bias."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size), requires_grad=False)
        self.epsilon = epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        return nn.functional.rms_norm(hidden, self.weight.shape, self.weight, self.epsilon)


class RelativeBias(nn.Module):
    """The bias that the first block of a stack computes and all its blocks add to their attention scores."""

    bucket_of: Tensor

    def __init__(self, architecture: Architecture, *, bidirectional: bool) -> None:
        super().__init__()
        shape = (architecture.relative_buckets, architecture.num_heads)
        self.weight = nn.Parameter(torch.empty(shape), requires_grad=False)
        self.reach = architecture.relative_max_distance
        table = bucket_table(architecture, bidirectional=bidirectional)
        self.register_buffer("bucket_of", table, persistent=False)

    def forward(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """Bias [1, heads, queries, keys] in float32."""
        distance = key_positions[None, :] - query_positions[:, None]
        place = torch.clamp(distance, -self.reach, self.reach) + self.reach
        bucket = self.bucket_of.index_select(0, place.flatten())
        bias = nn.functional.embedding(bucket, self.weight)  # [queries * keys, heads]
        return bias.reshape(*distance.shape, -1).permute(2, 0, 1).unsqueeze(0)


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


class DenseFeedForward(nn.Module):
    """One feed-forward network."""

    def __init__(self, build: Build) -> None:
        super().__init__()
        architecture, self.precision = build.architecture, build.precision
        dtype = self.precision.compute
        for name in input_names(architecture):
            self.add_module(name, Linear(architecture.d_model, architecture.d_ff, dtype))
        self.wo = Linear(architecture.d_ff, architecture.d_model, dtype)
        self.inputs = input_names(architecture)
        self.activation = activation_function(architecture.activation)

    def forward(self, normed: Tensor) -> Tensor:
        weights = tuple(self.get_parameter(f"{name}.weight") for name in self.inputs)
        activation, scale = self.activation, self.precision.wo_scale
        output = moe.feed_forward(
            normed.to(self.precision.compute), weights, self.wo.weight, lambda x: scaled(activation(x), scale)
        )
        return unscaled(output.to(torch.float32), scale)


class Classifier(Linear):
    """A float32 product, with a bias where the checkpoint has one."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture.d_model, architecture.num_experts, torch.float32)
        self.bias: nn.Parameter | None = None
        if architecture.router_bias:
            self.bias = nn.Parameter(torch.empty(architecture.num_experts), requires_grad=False)

    def forward(self, hidden: Tensor) -> Tensor:
        logits = super().forward(hidden)
        return logits if self.bias is None else logits + self.bias


class Router(nn.Module):
    """The float32 classifier of a sparse layer."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.classifier = Classifier(architecture)

    def forward(self, normed: Tensor) -> Tensor:
        logits: Tensor = self.classifier(normed)
        return logits


class Experts(nn.Module):
    """The stacked weights of a sparse layer's experts."""

    def __init__(self, architecture: Architecture, dtype: torch.dtype) -> None:
        super().__init__()
        experts, d_model, d_ff = architecture.num_experts, architecture.d_model, architecture.d_ff
        for name in input_names(architecture):
            self.register_parameter(
                name, nn.Parameter(torch.empty(experts, d_model, d_ff, dtype=dtype), requires_grad=False)
            )
        self.wo = nn.Parameter(torch.empty(experts, d_ff, d_model, dtype=dtype), requires_grad=False)


class SparseFeedForward(nn.Module):
    """A router and its experts.

    Args:
        build: sizes, form, precision, capacity.
        path: module path, by which the branching dispatch finds its experts.
        few_tokens: whether the graph sees few tokens at a time (the decoder step), for the portable form's choice.
    """

    def __init__(self, build: Build, path: str, *, few_tokens: bool) -> None:
        super().__init__()
        self.build, self.path, self.few_tokens = build, path, few_tokens
        self.drop_overflow = moe.branch_drop_overflow if build.form == "fused" else moe.drop_overflow
        self.chosen: Tensor | None = None  # what a comparison wants to see of the last call
        architecture = build.architecture
        self.router = Router(architecture)
        if build.form == "portable":
            self.experts = Experts(architecture, build.precision.compute)
        self.inputs = input_names(architecture)
        self.activation = activation_function(architecture.activation)

    def forward(self, normed: Tensor) -> Tensor:
        routing = moe.route(self.router(normed))
        output = self.dispatch(normed.to(self.build.precision.compute), routing.expert).to(torch.float32)
        return unscaled(output * self.weight(routing).unsqueeze(-1), self.build.precision.wo_scale)

    def weight(self, routing: moe.Routing) -> Tensor:
        """What the experts' outputs are scaled by, float32 [batch, tokens]."""
        experts, capacity = self.build.architecture.num_experts, self.build.capacity
        if capacity is None:
            return routing.probability
        return self.drop_overflow(routing, experts, capacity)

    def dispatch(self, hidden: Tensor, expert: Tensor) -> Tensor:
        """[batch, tokens, d_model] through the experts, by the form's dispatch."""
        if self.build.form == "fused":
            return moe.branch_dispatch(hidden, expert, self.path)
        activation, scale = self.activation, self.build.precision.wo_scale
        weights = tuple(self.experts.get_parameter(name) for name in self.inputs)
        arguments = (hidden, expert, weights, self.experts.wo, lambda x: scaled(activation(x), scale))
        if self.few_tokens:
            return moe.gather_dispatch(*arguments)
        return moe.bucket_dispatch(*arguments, self.build.capacity)


class FeedForwardLayer(nn.Module):
    """Norm, feed-forward network or experts, residual."""

    def __init__(self, build: Build, path: str, *, sparse: bool, few_tokens: bool) -> None:
        super().__init__()
        self.mlp = SparseFeedForward(build, f"{path}.mlp", few_tokens=few_tokens) if sparse else DenseFeedForward(build)
        self.layer_norm = RMSNorm(build.architecture.d_model, build.architecture.layer_norm_epsilon)

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.mlp(self.layer_norm(hidden))
        return hidden + output


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


def input_names(architecture: Architecture) -> tuple[str, ...]:
    """Names of a feed-forward network's input projections."""
    return ("wi_0", "wi_1") if architecture.gated else ("wi",)


def scaled(hidden: Tensor, scale: float) -> Tensor:
    """Multiply by a power of two, where it is not one."""
    return hidden * scale if scale != 1.0 else hidden


def unscaled(hidden: Tensor, scale: float) -> Tensor:
    """Undo `scaled`."""
    return hidden * (1.0 / scale) if scale != 1.0 else hidden

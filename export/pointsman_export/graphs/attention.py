"""Attention as nodes: over a cache, and over the encoder's keys and values."""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from pointsman_export.graphs.layers import linear, normed
from pointsman_export.graphs.scope import Scope
from pointsman_export.network import Build

Pair = tuple[ir.Value, ir.Value]


@dataclass(frozen=True, slots=True)
class Cached:
    """What self-attention finds in the cache.

    Attributes:
        pair: keys and values, [rows, heads, past, d_kv] each.
        rows: int64 [rows], which row of them each row continues.
    """

    pair: Pair
    rows: ir.Value

    def reordered(self, layer: Scope) -> Sequence[ir.Value]:
        """Keys and values in the order of the rows that continue them."""
        return [layer.op("Gather", cache, self.rows, axis=0) for cache in self.pair]


def in_one_node(build: Build) -> bool:
    """Whether self-attention is ONNX's `Attention`: faster on ONNX Runtime than its parts.

    Not in other precisions, where its parts run in different ones.
    """
    return build.form == "fused" and build.precision.name == "float32"


def self_attention(
    layer: Scope, build: Build, hidden: ir.Value, bias: ir.Value, cached: Cached | None = None
) -> tuple[ir.Value, Sequence[ir.Value]]:
    """Norm, self-attention, residual.

    Args:
        layer: the module.
        build: sizes, form, precision.
        hidden: float32 [rows, tokens, d_model].
        bias: float32, broadcast to [rows, heads, tokens, keys].
        cached: earlier keys and values; None in the encoder.

    Returns:
        hidden; and where there is a cache, all keys and values, [rows, heads, keys, d_kv] each.
    """
    attention, states = layer.at("SelfAttention"), layer.cast(normed(layer, build, hidden), build.precision.name)
    projected = [linear(attention.at(name), states) for name in "qkv"]
    earlier = cached.reordered(layer) if cached else []
    attending = _whole if in_one_node(build) else _in_parts
    attended, *grown = attending(layer, build, projected, bias, earlier)
    return _added(layer, attention, hidden, attended), grown


def _whole(
    layer: Scope, build: Build, projected: Sequence[ir.Value], bias: ir.Value, earlier: Sequence[ir.Value]
) -> Sequence[ir.Value]:
    """Attention as one node of ONNX (opset 23), which takes projections as they come and grows the cache."""
    heads = build.architecture.num_heads
    return layer.outputs(
        3 if earlier else 1, "Attention", *projected, bias, *earlier, q_num_heads=heads, kv_num_heads=heads, scale=1.0
    )


def _in_parts(
    layer: Scope, build: Build, projected: Sequence[ir.Value], bias: ir.Value, earlier: Sequence[ir.Value]
) -> Sequence[ir.Value]:
    """The same with its parts spelled out."""
    architecture = build.architecture
    heads = layer.constant([0, 0, architecture.num_heads, architecture.d_kv])
    query, *pair = (layer.op("Transpose", layer.op("Reshape", each, heads), perm=[0, 2, 1, 3]) for each in projected)
    if earlier:
        pair = [layer.op("Concat", *both, axis=2) for both in zip(earlier, pair, strict=True)]
    key, value = pair
    attended = attend(layer, build, query, layer.op("Transpose", key, perm=[0, 1, 3, 2]), value, bias)
    merged = layer.op("Transpose", attended, perm=[0, 2, 1, 3])
    return layer.op("Reshape", merged, layer.constant([0, 0, architecture.num_heads * architecture.d_kv])), key, value


def attend(
    layer: Scope, build: Build, query: ir.Value, transposed_key: ir.Value, value: ir.Value, bias: ir.Value
) -> ir.Value:
    """Unscaled attention with an additive bias; the softmax runs in float32.

    Args:
        layer: the module.
        build: for its precision.
        query: [batch, heads, queries, d_kv].
        transposed_key: [batch, heads, d_kv, keys].
        value: [batch, heads, keys, d_kv].
        bias: float32, broadcast to [batch, heads, queries, keys].

    Returns:
        [batch, heads, queries, d_kv].
    """
    dtype = build.precision.name
    scores = layer.op("Add", layer.cast(layer.op("MatMul", query, transposed_key), "float32"), bias)
    return layer.op("MatMul", layer.cast(layer.op("Softmax", scores, axis=-1), dtype), value)


def cross_attention(
    layer: Scope, build: Build, hidden: ir.Value, bias: ir.Value, pair: Pair, batch: ir.Value
) -> ir.Value:
    """Norm, attention over the encoder's keys and values, residual.

    All beams of an input attend together, so that its keys and values are read once, not per beam.

    Args:
        layer: the module.
        build: sizes and precision.
        hidden: float32 [rows, positions, d_model].
        bias: float32 [batch, 1, 1, source].
        pair: keys, [batch, heads, d_kv, source], and values, [batch, heads, source, d_kv].
        batch: int64 [1], how many inputs there are.
    """
    attention, architecture = layer.at("EncDecAttention"), build.architecture
    query = linear(attention.at("q"), layer.cast(normed(layer, build, hidden), build.precision.name))
    heads = layer.constant([-1, architecture.num_heads, architecture.d_kv])
    split = layer.op("Reshape", query, layer.op("Concat", batch, heads, axis=0))
    attended = attend(layer, build, layer.op("Transpose", split, perm=[0, 2, 1, 3]), *pair, bias)
    merged = layer.op("Reshape", layer.op("Transpose", attended, perm=[0, 2, 1, 3]), layer.op("Shape", query))
    return _added(layer, attention, hidden, merged)


def cross_keys_values(attention: Scope, build: Build, states: ir.Value) -> Pair:
    """What a decoder layer attends to: keys, transposed once for all steps, and values.

    Args:
        attention: the module.
        build: sizes.
        states: [batch, source, d_model] in the precision's dtype.

    Returns:
        [batch, heads, d_kv, source] and [batch, heads, source, d_kv].
    """
    heads = attention.constant([0, 0, build.architecture.num_heads, build.architecture.d_kv])
    key, value = (attention.op("Reshape", linear(attention.at(name), states), heads) for name in "kv")
    return attention.op("Transpose", key, perm=[0, 2, 3, 1]), attention.op("Transpose", value, perm=[0, 2, 1, 3])


def _added(layer: Scope, attention: Scope, hidden: ir.Value, attended: ir.Value) -> ir.Value:
    """Project what was attended to back to the residual's width, and add it."""
    projected = linear(attention.at("o"), attended)
    return layer.op("Add", hidden, layer.cast(projected, "float32"))

"""Attention as nodes: over a cache, and over the encoder's keys and values."""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from pointsman.bundle import names
from pointsman_export.graphs.layers import linear, normed
from pointsman_export.graphs.scope import Scope
from pointsman_export.network import Build

Pair = tuple[ir.Value, ir.Value]


@dataclass(frozen=True, slots=True)
class Cache:
    """The self-attention cache of a layer.

    Attributes:
        pair: keys and values, [rows, heads, capacity, d_kv] each.
        lengths: int64 [rows], how many tokens of each row are in it.
    """

    pair: Pair
    lengths: ir.Value

    def extended(self, layer: Scope, pair: Sequence[ir.Value]) -> Sequence[ir.Value]:
        """Keys and values with those of the step, [rows, heads, positions, d_kv] each, behind the ones that are there.

        Engines do that in place where what goes in and what comes out are bound to the same memory.
        """
        both = zip(self.pair, pair, strict=True)
        return [layer.op("TensorScatter", held, new, self.lengths, axis=2) for held, new in both]


@dataclass(frozen=True, slots=True)
class Grid:
    """The queries that attend to each input, so that its keys and values are read once, and not once a row.

    Attributes:
        queries: int64 [batch, heads, width], numbers of queries; see `pointsman.bundle.attending`.
        places: int64 [rows, positions, heads], where in it each query is.
    """

    queries: ir.Value
    places: ir.Value


def in_one_node(build: Build) -> bool:
    """Whether the encoder's self-attention is ONNX's `Attention`: faster on ONNX Runtime than its parts.

    Not in other precisions, where its parts run in different ones. In the decoder it would be no faster.
    """
    return build.form == "fused" and build.precision.name == "float32"


def self_attention(
    layer: Scope, build: Build, hidden: ir.Value, bias: ir.Value, cache: Cache | None = None
) -> tuple[ir.Value, Sequence[ir.Value]]:
    """Norm, self-attention, residual.

    Args:
        layer: the module.
        build: sizes, form, precision.
        hidden: the stream's dtype [rows, tokens, d_model].
        bias: the stream's dtype, broadcast to [rows, heads, tokens, keys].
        cache: of the layer, whose keys are all that it has room for; None in the encoder.

    Returns:
        hidden; and where there is a cache, its keys and values with those of the step.
    """
    attention, states = layer.at(names.SELF_ATTENTION), layer.cast(normed(layer, build, hidden), build.precision.name)
    projected = [linear(attention.at(name), states) for name in "qkv"]
    if cache is None and in_one_node(build):
        heads = build.architecture.num_heads
        attended = layer.op("Attention", *projected, bias, q_num_heads=heads, kv_num_heads=heads, scale=1.0)
        return _added(layer, build, attention, hidden, attended), []
    attended, pair = _in_parts(layer, build, projected, bias, cache)
    return _added(layer, build, attention, hidden, attended), pair


def _in_parts(
    layer: Scope, build: Build, projected: Sequence[ir.Value], bias: ir.Value, cache: Cache | None
) -> tuple[ir.Value, Sequence[ir.Value]]:
    """Attention spelled out: [rows, tokens, heads * d_kv], and the keys and values that were attended to."""
    positions = None if cache is None else build.positions
    query, *new = (_heads_apart(layer, build, each, positions) for each in projected)
    key, value = new if cache is None else cache.extended(layer, new)
    attended = attend(layer, build, query, layer.op("Transpose", key, perm=[0, 1, 3, 2]), value, bias)
    return _heads_together(layer, build, attended, positions), (key, value)


def _heads_apart(layer: Scope, build: Build, projected: ir.Value, positions: int | None) -> ir.Value:
    """[rows, tokens, heads * d_kv] to [rows, heads, tokens, d_kv]; of one token that moves nothing."""
    heads, d_kv = build.architecture.num_heads, build.architecture.d_kv
    if positions == 1:
        return layer.op("Reshape", projected, layer.constant([-1, heads, 1, d_kv]))
    apart = layer.op("Reshape", projected, layer.constant([0, 0, heads, d_kv]))
    return layer.op("Transpose", apart, perm=[0, 2, 1, 3])


def _heads_together(layer: Scope, build: Build, attended: ir.Value, positions: int | None) -> ir.Value:
    """The way back."""
    width = build.architecture.num_heads * build.architecture.d_kv
    if positions == 1:
        return layer.op("Reshape", attended, layer.constant([-1, 1, width]))
    return layer.op("Reshape", layer.op("Transpose", attended, perm=[0, 2, 1, 3]), layer.constant([0, 0, width]))


def attend(
    layer: Scope, build: Build, query: ir.Value, transposed_key: ir.Value, value: ir.Value, bias: ir.Value
) -> ir.Value:
    """Unscaled attention with an additive bias; sums of the softmax are in float32.

    Args:
        layer: the module.
        build: for its precision.
        query: [batch, heads, queries, d_kv].
        transposed_key: [batch, heads, d_kv, keys].
        value: [batch, heads, keys, d_kv].
        bias: the stream's dtype, broadcast to [batch, heads, queries, keys].

    Returns:
        [batch, heads, queries, d_kv].
    """
    precision = build.precision
    scores = layer.op("Add", layer.cast(layer.op("MatMul", query, transposed_key), precision.stream), bias)
    return layer.op("MatMul", layer.cast(layer.op("Softmax", scores, axis=-1), precision.name), value)


def cross_attention(layer: Scope, build: Build, hidden: ir.Value, bias: ir.Value, pair: Pair, grid: Grid) -> ir.Value:
    """Norm, attention over the encoder's keys and values, residual.

    Args:
        layer: the module.
        build: sizes and precision.
        hidden: the stream's dtype [rows, positions, d_model].
        bias: the stream's dtype [batch, 1, 1, source].
        pair: keys, [batch, heads, d_kv, source], and values, [batch, heads, source, d_kv].
        grid: which queries attend to which input.
    """
    attention, architecture = layer.at(names.CROSS_ATTENTION), build.architecture
    inner = architecture.num_heads * architecture.d_kv
    query = linear(attention.at("q"), layer.cast(normed(layer, build, hidden), build.precision.name))
    vectors, flat = (layer.constant([*axes, size]) for axes, size in (((-1,), architecture.d_kv), ((0, 0), inner)))
    queries = layer.op("Gather", layer.op("Reshape", query, vectors), grid.queries, axis=0)
    attended = layer.op("Reshape", attend(layer, build, queries, *pair, bias), vectors)
    merged = layer.op("Reshape", layer.op("Gather", attended, grid.places, axis=0), flat)
    return _added(layer, build, attention, hidden, merged)


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


def _added(layer: Scope, build: Build, attention: Scope, hidden: ir.Value, attended: ir.Value) -> ir.Value:
    """Project what was attended to back to the residual's width, and add it."""
    projected = linear(attention.at("o"), attended)
    return layer.op("Add", hidden, layer.cast(projected, build.precision.stream))

"""The decoder-step graph: token ids to logits, over a cache that has room for more."""

import numpy as np
import onnx_ir as ir

from pointsman.bundle import decoder_specs, names
from pointsman_export.graphs.attention import Cache, Grid, cross_attention, self_attention
from pointsman_export.graphs.feed_forward import feed_forward_layer
from pointsman_export.graphs.layers import embedded, linear, norm
from pointsman_export.graphs.positions import causal_bias, counted, padding_bias
from pointsman_export.graphs.scope import Scope, Tensors, finished, graph_inputs, new_graph
from pointsman_export.network import Build


def decoder_graph(build: Build, tensors: Tensors) -> ir.Model:
    """The decoder-step graph; arguments as of `encoder_graph`. It decodes the build's positions of every row."""
    inputs, outputs = decoder_specs(build.architecture, build.precision.name, build.positions or names.POSITIONS)
    graph, values = new_graph(tensors), graph_inputs(inputs)
    hidden, results = _decoded(graph, build, values)
    results[names.LOGITS] = _logits(graph, build, hidden, values[names.INPUT_IDS])
    return finished(graph, "decoder", values, results, outputs)


def _decoded(graph: Scope, build: Build, values: dict[str, ir.Value]) -> tuple[ir.Value, dict[str, ir.Value]]:
    """The residual stream behind all blocks, normed, [rows, positions, d_model], and the caches by name."""
    ids, mask, stack = values[names.INPUT_IDS], values[names.ATTENTION_MASK], build.architecture.decoder
    bias, padding, grid = _bias(graph, build, values), padding_bias(graph, build, mask), _grid(values)
    embedding = graph.module(names.module_of(build.architecture.embedding("decoder")))
    hidden, grown = embedded(embedding, build, ids), dict[str, ir.Value]()
    for number in range(stack.layers):
        block = graph.module(names.block_path("decoder", number))
        past, cross = (_pair(values, names_of(number)) for names_of in (names.past_names, names.cross_names))
        cache = Cache(past, values[names.LENGTHS])
        hidden, present = self_attention(block.at("layer.0"), build, hidden, bias, cache)
        grown |= zip(names.present_names(number), present, strict=True)
        hidden = cross_attention(block.at("layer.1"), build, hidden, padding, cross, grid)
        hidden.name = names.attended("decoder", number)
        hidden = feed_forward_layer(block.at("layer.2"), build, hidden, sparse=number in stack.sparse_layers)
        hidden.name = names.block_path("decoder", number)
    return norm(graph.module(names.final_norm("decoder")), build, hidden), grown


def _pair(values: dict[str, ir.Value], pair: tuple[str, str]) -> tuple[ir.Value, ir.Value]:
    return values[pair[0]], values[pair[1]]


def _bias(graph: Scope, build: Build, values: dict[str, ir.Value]) -> ir.Value:
    """Relative bias, and the mask of what is no earlier token: [rows, heads, positions, capacity]."""
    queries = graph.op("Unsqueeze", values[names.LENGTHS], graph.constant([1, 2]))  # [rows, positions, 1]
    if build.positions != 1:
        fed = counted(graph, graph.length(values[names.INPUT_IDS], 1))
        queries = graph.op("Add", queries, graph.op("Unsqueeze", fed, graph.constant([1])))
    module = graph.module(names.relative_bias("decoder"))
    return causal_bias(module, build, queries, values[names.CACHE_POSITIONS])


def _grid(values: dict[str, ir.Value]) -> Grid:
    return Grid(values[names.ATTENDING_QUERIES], values[names.ATTENDED_PLACES])


def _logits(graph: Scope, build: Build, hidden: ir.Value, ids: ir.Value) -> ir.Value:
    """Float32 [rows, positions, vocab] of hidden [rows, positions, d_model] and int64 [rows, positions]."""
    dtype, architecture = build.precision.name, build.architecture
    scale = architecture.d_model**-0.5 if architecture.tied_head or architecture.scaled_head else 1.0
    if build.precision.stream == "float32" and scale != 1.0:
        hidden, scale = graph.op("Mul", hidden, graph.constant(np.array(scale, np.float32))), 1.0
    if not architecture.tied_head:
        head = graph.module(names.module_of(names.HEAD))
        logits = graph.cast(linear(head, graph.cast(hidden, dtype)), "float32")
        return logits if scale == 1.0 else graph.op("Mul", logits, graph.constant(np.array(scale, np.float32)))
    flat = graph.op("Reshape", graph.cast(hidden, dtype), graph.constant([-1, architecture.d_model]))
    embedding = graph.module(names.module_of(architecture.embedding("decoder"))).weight()
    product = graph.op("Gemm", flat, embedding, transB=1, **({} if scale == 1.0 else {"alpha": scale}))
    return graph.cast(graph.op("Reshape", product, _logits_shape(graph, build, ids)), "float32")


def _logits_shape(graph: Scope, build: Build, ids: ir.Value) -> ir.Value:
    vocabulary = build.architecture.vocab_size
    if build.positions is not None:
        return graph.constant([-1, build.positions, vocabulary])
    return graph.op("Concat", graph.constant([-1]), graph.length(ids, 1), graph.constant([vocabulary]), axis=0)

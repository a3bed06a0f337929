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
    """The decoder-step graph; arguments as of `encoder_graph`. It decodes any number of positions of every row."""
    inputs, outputs = decoder_specs(build.architecture, build.precision.name)
    graph, values = new_graph(tensors), graph_inputs(inputs)
    hidden, results = _decoded(graph, build, values)
    results[names.LOGITS] = _logits(graph, build, hidden, values[names.INPUT_IDS])
    return finished(graph, "decoder", values, results, outputs)


def _decoded(graph: Scope, build: Build, values: dict[str, ir.Value]) -> tuple[ir.Value, dict[str, ir.Value]]:
    """The residual stream behind all blocks, float32 [rows, positions, d_model], and the caches by name."""
    ids, mask, stack = values[names.INPUT_IDS], values[names.ATTENTION_MASK], build.architecture.decoder
    bias, padding, grid = _bias(graph, build, values), padding_bias(graph, mask), _grid(graph, build, values)
    embedding = graph.module(names.module_of(build.architecture.embedding("decoder")))
    hidden, grown = embedded(embedding, ids), dict[str, ir.Value]()
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
    """Relative bias, and the mask of what is no earlier token: float32 [rows, heads, positions, capacity]."""
    fed = counted(graph, graph.length(values[names.INPUT_IDS], 1))
    lengths = graph.op("Unsqueeze", values[names.LENGTHS], graph.constant([1]))
    queries = graph.op("Unsqueeze", graph.op("Add", lengths, fed), graph.constant([2]))  # [rows, positions, 1]
    keys = counted(graph, graph.length(values[names.past_names(0)[0]], 2))
    return causal_bias(graph.module(names.relative_bias("decoder")), build.architecture, queries, keys)


def _grid(graph: Scope, build: Build, values: dict[str, ir.Value]) -> Grid:
    width = build.architecture.num_heads * build.architecture.d_kv
    positions = graph.length(values[names.INPUT_IDS], 1)
    merged = graph.op("Concat", graph.constant([-1]), positions, graph.constant([width]), axis=0)
    return Grid(values[names.ATTENDING_ROWS], values[names.ROW_PLACES], merged)


def _logits(graph: Scope, build: Build, hidden: ir.Value, ids: ir.Value) -> ir.Value:
    """Float32 [rows, positions, vocab] of float32 [rows, positions, d_model] and int64 [rows, positions]."""
    dtype, architecture = build.precision.name, build.architecture
    if architecture.tied_head or architecture.scaled_head:
        hidden = graph.op("Mul", hidden, graph.constant(np.array(architecture.d_model**-0.5, np.float32)))
    if not architecture.tied_head:
        head = graph.module(names.module_of(names.HEAD))
        return graph.cast(linear(head, graph.cast(hidden, dtype)), "float32")
    flat = graph.op("Reshape", graph.cast(hidden, dtype), graph.constant([-1, architecture.d_model]))
    embedding = graph.module(names.module_of(architecture.embedding("decoder"))).weight()
    product = graph.op("Gemm", flat, embedding, transB=1)
    shape = graph.op("Concat", graph.op("Shape", ids), graph.constant([architecture.vocab_size]), axis=0)
    return graph.cast(graph.op("Reshape", product, shape), "float32")

"""The encoder graph: token ids and mask to the cross-attention keys and values of every decoder layer.

No hidden states cross the border between the graphs, so that they are projected once per request and never again.
"""

import onnx_ir as ir

from pointsman.bundle import encoder_specs, names
from pointsman_export.graphs.attention import cross_keys_values, self_attention
from pointsman_export.graphs.buckets import Buckets
from pointsman_export.graphs.feed_forward import feed_forward_layer
from pointsman_export.graphs.layers import embedded, norm
from pointsman_export.graphs.positions import counted, padding_bias, relative_bias
from pointsman_export.graphs.scope import Scope, Tensors, finished, graph_inputs, new_graph
from pointsman_export.network import Build


def encoder_graph(build: Build, tensors: Tensors) -> ir.Model:
    """The encoder graph.

    Args:
        build: sizes, form, precision, capacity.
        tensors: where each initializer's bytes are.
    """
    inputs, outputs = encoder_specs(build.architecture, build.precision.name)
    graph, values = new_graph(tensors), graph_inputs(inputs)
    states = _encoded(graph, build, values[names.INPUT_IDS], values[names.ATTENTION_MASK])
    crossed: dict[str, ir.Value] = {}
    for number in range(build.architecture.decoder.layers):
        attention = graph.module(names.cross_attention(number))
        crossed |= zip(names.cross_names(number), cross_keys_values(attention, build, states), strict=True)
    return finished(graph, "encoder", values, crossed, outputs)


def _encoded(graph: Scope, build: Build, ids: ir.Value, mask: ir.Value) -> ir.Value:
    """The encoder's states, [batch, source, d_model] in the precision's dtype."""
    stack = build.architecture.encoder
    into = Buckets.of(graph, build, ids) if build.form == "portable" and stack.sparse_layers else None
    bias = _bias(graph, build, ids, mask)
    hidden = embedded(graph.module(names.module_of(build.architecture.embedding("encoder"))), build, ids)
    for number in range(stack.layers):
        block = graph.module(names.block_path("encoder", number))
        hidden, _ = self_attention(block.at("layer.0"), build, hidden, bias)
        hidden.name = names.attended("encoder", number)
        sparse = number in stack.sparse_layers
        hidden = feed_forward_layer(block.at("layer.1"), build, hidden, sparse=sparse, into=into)
        hidden.name = names.block_path("encoder", number)
    normed = norm(graph.module(names.final_norm("encoder")), build, hidden)
    return graph.cast(normed, build.precision.name)


def _bias(graph: Scope, build: Build, ids: ir.Value, mask: ir.Value) -> ir.Value:
    """What is added to attention scores: the stream's dtype [batch, heads, source, source]."""
    positions = counted(graph, graph.length(ids, 1))
    keys, queries = (graph.op("Unsqueeze", positions, graph.constant([axis])) for axis in (0, 1))
    module = graph.module(names.relative_bias("encoder"))
    relative = relative_bias(module, build.architecture, queries, keys)
    return graph.op("Add", graph.cast(relative, build.precision.stream), padding_bias(graph, build, mask))

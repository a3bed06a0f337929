"""Q/DQ in a portable graph: activations through QuantizeLinear and DequantizeLinear, weights through DequantizeLinear.

TensorRT keeps a weight in INT8 if its codes feed a DequantizeLinear and nothing else. So gathering a token's expert, or
its embedding, reads what DequantizeLinear makes of the whole weight, and never the codes:

    codes, scales ──> DequantizeLinear ─[──> Gather ]──> MatMul
    activations ──> QuantizeLinear ──> DequantizeLinear ──┘

Scales of experts are [experts, 1, outputs], which ONNX calls blocked quantization with one block along the inputs.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from pointsman_calib.graphs.products import Product, weight_of
from pointsman_calib.schemes.qdq.weights import QuantizedWeight

ZERO_POINT = "qdq.zero_point"


def rewrite(
    model: ir.Model,
    products: Iterable[Product],
    scales: Mapping[str, np.float32],
    quantized: Mapping[str, QuantizedWeight],
    kept: Mapping[str, ir.ExternalTensor],
) -> None:
    """Quantize a float graph in place; names of inputs, outputs and remaining values stay as they are.

    Args:
        model: the graph.
        products: those that are to be quantized; others than this graph's are passed over.
        scales: of their inputs, by the tensor's name in a range table.
        quantized: weights, in the new file.
        kept: other tensors, in the new file.
    """
    graph = model.graph
    readers = readers_of(graph, products)
    for product, nodes in readers.items():
        _quantize_inputs(graph, nodes, scales[product.tensor])
    for name in sorted(quantized.keys() & graph.initializers.keys()):
        _dequantize_weight(graph, name, quantized[name])
    for name, value in graph.initializers.items():
        if name in kept:
            value.const_value = kept[name]


def readers_of(graph: ir.Graph, products: Iterable[Product]) -> dict[Product, list[ir.Node]]:
    """The nodes that multiply the same value, by the first product of it."""
    first: dict[str, Product] = {}
    nodes: dict[Product, list[ir.Node]] = {}
    of_weight = {product.weight: product for product in products}
    for node in graph:
        weight, _ = weight_of(node)
        if weight is not None and weight.name in of_weight:
            product = of_weight[weight.name]
            nodes.setdefault(first.setdefault(product.inputs, product), []).append(node)
    return nodes


def _quantize_inputs(graph: ir.Graph, nodes: list[ir.Node], scale: np.float32) -> None:
    """Send what nodes multiply through INT8; whatever else reads it, as a router, reads it in float."""
    value = nodes[0].inputs[0]
    assert value is not None
    grid = [
        _constant(graph, f"{value.name}.scale", np.array(scale)),
        _constant(graph, ZERO_POINT, np.array(0, np.int8)),
    ]
    quantize = ir.node("QuantizeLinear", [value, *grid], name=f"{value.name}/QuantizeLinear")
    codes = _named(quantize, f"{value.name}.codes", ir.DataType.INT8, value.shape)
    dequantize = ir.node("DequantizeLinear", [codes, *grid], name=f"{value.name}/DequantizeLinear")
    rounded = _named(dequantize, f"{value.name}.rounded", ir.DataType.FLOAT, value.shape)
    graph.insert_before(nodes[0], [quantize, dequantize])
    for node in nodes:
        node.replace_input_with(0, rounded)


def _dequantize_weight(graph: ir.Graph, name: str, weight: QuantizedWeight) -> None:
    """Put DequantizeLinear of the codes in the place of a weight, whatever reads it."""
    value = graph.initializers.pop(name)
    codes, scales = (_initializer(graph, tensor) for tensor in (weight.codes, weight.scales))
    attributes = {"axis": weight.axis}
    if weight.block_size is not None:
        attributes["block_size"] = weight.block_size
    dequantize = ir.node("DequantizeLinear", [codes, scales], attributes, name=f"{name}/DequantizeLinear")
    rounded = _named(dequantize, f"{name}.rounded", ir.DataType.FLOAT, weight.codes.shape)
    readers = {use.node for use in value.uses()}
    graph.insert_before(next(node for node in graph if node in readers), dequantize)
    ir.convenience.replace_all_uses_with(value, rounded)


def _named(node: ir.Node, name: str, dtype: ir.DataType, shape: ir.Shape | None) -> ir.Value:
    """A node's output, with a name and a type."""
    (output,) = node.outputs
    output.name, output.dtype, output.shape = name, dtype, shape
    return output


def _constant(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    if name in graph.initializers:
        return graph.initializers[name]
    return _initializer(graph, ir.tensor(array, name=name))


def _initializer(graph: ir.Graph, tensor: ir.TensorProtocol) -> ir.Value:
    shape = ir.Shape(tensor.shape.numpy())
    value = ir.Value(name=tensor.name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value

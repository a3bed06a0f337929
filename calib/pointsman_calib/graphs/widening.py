"""bfloat16 graphs made to be float32 ones; their weights stay as they are on disk, and are widened as they are read.

What comes of it is for quantizing, which puts other weights in. It has the nodes of the bfloat16 form, which parts the
encoder's attention, and not those of the float32 one.
"""

from dataclasses import replace
from typing import Final

import numpy as np
import onnx_ir as ir

from pointsman.bundle import Graph, Variant

_NARROW, _WIDE = ir.DataType.BFLOAT16, ir.DataType.FLOAT
_NEUTRAL: Final = 1.0


def widen(model: ir.Model) -> None:
    """Make a bfloat16 graph compute in float32, in place; any other stays as it is."""
    nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
    for node in nodes:
        _widen_attributes(node)
        if node.op_type == "Gemm":
            _scale_inputs(model.graph, node)
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in (*graph.inputs, *graph.initializers.values()):
            _widen_value(value)
    for node in nodes:
        for value in node.outputs:
            _widen_value(value)
        if node.op_type == "Cast" and _is_vain(node):
            _remove(node)


def widened_variant(variant: Variant) -> Variant:
    """A bfloat16 variant with the interface that its graphs have once they are widened; any other as it is."""
    return replace(variant, encoder=_widened_graph(variant.encoder), decoder=_widened_graph(variant.decoder))


def _widened_graph(graph: Graph) -> Graph:
    inputs, outputs = (
        tuple(replace(spec, dtype="float32") if spec.dtype == "bfloat16" else spec for spec in specs)
        for specs in (graph.inputs, graph.outputs)
    )
    return replace(graph, inputs=inputs, outputs=outputs)


def _widen_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == _NARROW:
            node.attributes[name] = ir.AttrTensor(name, _widened(attribute.as_tensor(), None))
        elif node.op_type == "Cast" and name == "to" and attribute.as_int() == _NARROW:
            node.attributes[name] = ir.AttrInt64(name, _WIDE)


def _widen_value(value: ir.Value) -> None:
    """Of a weight in external data, only what it is said to be."""
    data = value.const_value
    if data is not None and data.dtype == _NARROW and not isinstance(data, ir.ExternalTensor):
        value.const_value = _widened(data, value.name)
    if value.dtype == _NARROW:
        value.dtype = _WIDE


def _is_vain(cast: ir.Node) -> bool:
    """Whether it makes float32 of what is known to be that."""
    (value,) = cast.inputs
    return cast.attributes["to"].as_int() == _WIDE and value is not None and value.dtype == _WIDE


def _remove(node: ir.Node) -> None:
    (new,), (old,) = node.inputs, node.outputs
    assert new is not None
    assert isinstance(node.graph, ir.Graph)
    if not old.is_graph_output():
        old.replace_all_uses_with(new)
        node.graph.remove(node, safe=True)


def _scale_inputs(graph: ir.Graph, product: ir.Node) -> None:
    """Scale what a product multiplies, and not its result, as float32 graphs do: quantized products have no scale."""
    scale = product.attributes.pop("alpha", None)
    if scale is None or scale.as_float() == _NEUTRAL:
        return
    name = f"{product.name}/scale"
    tensor = ir.tensor(np.array(scale.as_float(), np.float32), name=name)
    constant = ir.Value(name=name, shape=ir.Shape(()), type=ir.TensorType(_WIDE), const_value=tensor)
    graph.register_initializer(constant)
    scaled = ir.node("Mul", [product.inputs[0], constant], name=f"{product.name}/scaled")
    scaled.outputs[0].name = f"{product.name}/scaled:0"
    assert isinstance(product.graph, ir.Graph)
    product.graph.insert_before(product, scaled)
    product.replace_input_with(0, scaled.outputs[0])


def _widened(tensor: ir.TensorProtocol, name: str | None) -> ir.TensorProtocol:
    return ir.tensor(tensor.numpy().astype(np.float32), name=name)

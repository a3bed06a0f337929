"""bfloat16 graphs made to compute in float32, since ONNX Runtime's CPU engine has no bfloat16.

Weights keep their rounding.
"""

import numpy as np
import onnx_ir as ir

NARROW, WIDE = ir.DataType.BFLOAT16, ir.DataType.FLOAT


def widen(model: ir.Model) -> None:
    """Make a bfloat16 graph compute in float32."""
    nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
    for node in nodes:
        _widen_attributes(node)
        _widen_weights(node)
    for value in [*model.graph.inputs, *(value for node in nodes for value in node.outputs)]:
        if value.dtype == NARROW:
            value.dtype = WIDE
    for constant in model.graph.initializers.values():
        data = constant.const_value
        if data is not None and data.dtype == NARROW and not isinstance(data, ir.ExternalTensor):
            constant.const_value, constant.dtype = _widened(data, constant.name), WIDE


def _widen_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == NARROW:
            node.attributes[name] = ir.AttrTensor(name, _widened(attribute.as_tensor(), None))
        elif node.op_type == "Cast" and name == "to" and attribute.as_int() == NARROW:
            node.attributes[name] = ir.AttrInt64(name, WIDE)


def _widen_weights(node: ir.Node) -> None:
    """Cast weights beside each use, so that inside branches only the experts that are hit are read."""
    for index, weight in enumerate(node.inputs):
        if weight is not None and isinstance(weight.const_value, ir.ExternalTensor) and weight.dtype == NARROW:
            cast = ir.node("Cast", [weight], {"to": WIDE})
            cast.outputs[0].name = f"{node.name}:widened_{index}"
            node.graph.insert_before(node, cast)  # type: ignore[union-attr]
            node.replace_input_with(index, cast.outputs[0])


def _widened(tensor: ir.TensorProtocol, name: str | None) -> ir.TensorProtocol:
    return ir.tensor(tensor.numpy().astype(np.float32), name=name)

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
    for value in [*model.graph.inputs, *(value for node in nodes if not _looks_up(node) for value in node.outputs)]:
        if value.dtype == NARROW:
            value.dtype = WIDE
    for constant in model.graph.initializers.values():
        data = constant.const_value
        if data is not None and data.dtype == NARROW and not isinstance(data, ir.ExternalTensor):
            constant.const_value, constant.dtype = _widened(data, constant.name), WIDE


def _looks_up(node: ir.Node) -> bool:
    """Whether a node's output is of its weight's dtype, which stays as it is."""
    weight = node.inputs[0] if node.op_type == "Gather" else None
    return weight is not None and isinstance(weight.const_value, ir.ExternalTensor)


def _widen_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == NARROW:
            node.attributes[name] = ir.AttrTensor(name, _widened(attribute.as_tensor(), None))
        elif node.op_type == "Cast" and name == "to" and attribute.as_int() == NARROW:
            node.attributes[name] = ir.AttrInt64(name, WIDE)


def _widen_weights(node: ir.Node) -> None:
    """Cast weights beside each use, so that only what is used is read: in branches, and behind look-ups."""
    for index, weight in enumerate(node.inputs):
        if weight is not None and isinstance(weight.const_value, ir.ExternalTensor) and weight.dtype == NARROW:
            cast = ir.node("Cast", [weight], {"to": WIDE})
            cast.outputs[0].name = f"{node.name}:widened_{index}"
            if _looks_up(node):
                _widen_behind(node, cast)
            else:
                node.graph.insert_before(node, cast)  # type: ignore[union-attr]
                node.replace_input_with(index, cast.outputs[0])


def _widen_behind(node: ir.Node, cast: ir.Node) -> None:
    """Let a look-up give what is stored, and cast that."""
    (found,) = node.outputs
    found.replace_all_uses_with(cast.outputs[0])
    cast.replace_input_with(0, found)
    node.graph.insert_after(node, cast)  # type: ignore[union-attr]


def _widened(tensor: ir.TensorProtocol, name: str | None) -> ir.TensorProtocol:
    return ir.tensor(tensor.numpy().astype(np.float32), name=name)

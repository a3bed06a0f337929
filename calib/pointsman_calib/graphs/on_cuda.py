"""Graphs for CUDA: what has no kernel there, or computes something else there than on the CPU, said in other operators.

Quantized weight-only variants are served on the CPU, so a run on a GPU has to show what the CPU would give.
`MatMulIntegerToFloat` has no kernel for CUDA. `MatMulNBits` has one, which does not round its inputs to INT8 whatever
its accuracy level asks for; a variant would look better than it is. So integers are multiplied as floats here, which is
exact while sums stay below 2^24, as they do but for rows of the largest codes, and inputs are rounded in front of
`MatMulNBits`.

`Attention` and `GatherBlockQuantized` become standard operators, which the portable form has run on a GPU: their
kernels for CUDA are young, and what they do with float32, masks and unsigned codes has changed between versions.
`DequantizeLinear` of blocks has a kernel for 4 bits alone.
"""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import onnx_ir as ir

from pointsman_calib.graphs.expression import DOMAIN, Expression

_FLOAT: Final = {"to": ir.DataType.FLOAT}
_UNROUNDED: Final = 1  # accuracy_level: inputs are multiplied as they are
_LARGEST_INT8: Final = 127
_LEAST_STEP: Final = 1e-30  # of a block of zeros


def suit_cuda(graph: ir.Graph) -> None:
    """Put other operators in the place of some, in place; values keep their names, and weights their files."""
    for node in list(ir.traversal.RecursiveGraphIterator(graph)):
        if (form := _FORMS.get((node.domain, node.op_type))) is None:
            continue
        expression = Expression(str(node.name), graph)
        if (new := form(expression, node)) is not None:
            _put(node, expression, new)


def _put(node: ir.Node, expression: Expression, new: ir.Value) -> None:
    old = node.outputs[0]
    new.name, new.shape, new.type = old.name, old.shape, old.type
    assert isinstance(node.graph, ir.Graph)
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], expression.nodes, [old], [new])


def _integer_product(expression: Expression, node: ir.Node) -> ir.Value:
    """Of codes uint8 [..., inputs] and int8 [inputs, out], times a step and scales [out]."""
    codes, weight, step, scales, middle = _inputs(node)
    signed = expression.op("Sub", [_as_float(expression, codes), _as_float(expression, middle)])
    sums = expression.op("MatMul", [signed, _as_float(expression, weight)])
    return expression.op("Mul", [sums, expression.op("Mul", [step, scales])])


def _block_product(expression: Expression, node: ir.Node) -> ir.Value:
    """Of inputs that are rounded as the CPU rounds them: in blocks, each to 127 steps on both sides of zero."""
    inputs, *weight = _inputs(node)
    attributes = {name: value.as_int() for name, value in node.attributes.items()}
    rounded = _rounded(expression, inputs, attributes["K"], attributes["block_size"])
    return expression.op("MatMulNBits", [rounded, *weight], attributes | {"accuracy_level": _UNROUNDED}, DOMAIN)


def _rounded(expression: Expression, inputs: ir.Value, width: int, size: int) -> ir.Value:
    shape, missing = expression.op("Shape", [inputs]), -width % size
    rows = expression.op("Reshape", [inputs, _integers(expression, -1, width)])
    if missing:
        rows = expression.op("Pad", [rows, _integers(expression, 0, 0, 0, missing)])
    blocks = expression.op("Reshape", [rows, _integers(expression, -1, (width + missing) // size, size)])
    largest = expression.op("ReduceMax", [expression.op("Abs", [blocks]), _integers(expression, 2)])
    step = expression.op("Mul", [largest, expression.constant(np.float32(1 / _LARGEST_INT8))])
    step = expression.op("Max", [step, expression.constant(np.float32(_LEAST_STEP))])
    codes = expression.op("Round", [expression.op("Div", [blocks, step])])
    rounded = expression.op("Mul", [codes, step])
    if missing:
        rows = expression.op("Reshape", [rounded, _integers(expression, -1, width + missing)])
        bounds = (_integers(expression, 0), _integers(expression, width), _integers(expression, 1))
        rounded = expression.op("Slice", [rows, *bounds])
    return expression.op("Reshape", [rounded, shape], {"allowzero": 1})


def _lookup(expression: Expression, node: ir.Node) -> ir.Value:
    """Rows of codes uint8 [rows, width] of 8 bits, in blocks with scales [rows, blocks], as float32."""
    table, indices, scales = _inputs(node)
    size = node.attributes["block_size"].as_int()
    codes = _as_float(expression, expression.op("Gather", [table, indices]))
    signed = expression.op("Sub", [codes, expression.constant(np.float32(128))])
    blocks = expression.op("Reshape", [signed, _integers(expression, -1, size)])
    each = expression.op("Reshape", [expression.op("Gather", [scales, indices]), _integers(expression, -1, 1)])
    return expression.op("Reshape", [expression.op("Mul", [blocks, each]), expression.op("Shape", [codes])])


def _experts(expression: Expression, node: ir.Node) -> ir.Value | None:
    """Of codes int8 [experts, inputs, out] in blocks, each of which is all inputs, with scales [experts, 1, out].

    Codes that are not in blocks have a kernel, and stay.
    """
    if "block_size" not in node.attributes:
        return None
    codes, scales = _inputs(node)
    assert scales.shape is not None
    assert scales.shape[node.attributes["axis"].as_int()] == 1
    return expression.op("Mul", [_as_float(expression, codes), scales])


def _attention(expression: Expression, node: ir.Node) -> ir.Value:
    """Unscaled, of queries, keys and values [rows, tokens, heads * d_kv], with an additive bias."""
    query, key, value, bias = _inputs(node)
    assert node.attributes["scale"].as_float() == 1
    apart = _integers(expression, 0, 0, node.attributes["q_num_heads"].as_int(), -1)

    def heads(projected: ir.Value, order: list[int]) -> ir.Value:
        return expression.op("Transpose", [expression.op("Reshape", [projected, apart])], {"perm": order})

    scores = expression.op("MatMul", [heads(query, [0, 2, 1, 3]), heads(key, [0, 2, 3, 1])])
    shares = expression.op("Softmax", [expression.op("Add", [scores, bias])], {"axis": -1})
    attended = expression.op("MatMul", [shares, heads(value, [0, 2, 1, 3])])
    together = expression.op("Transpose", [attended], {"perm": [0, 2, 1, 3]})
    return expression.op("Reshape", [together, _integers(expression, 0, 0, -1)])


_FORMS: Final[Mapping[tuple[str, str], Callable[[Expression, ir.Node], ir.Value | None]]] = {
    (DOMAIN, "MatMulIntegerToFloat"): _integer_product,
    (DOMAIN, "MatMulNBits"): _block_product,
    (DOMAIN, "GatherBlockQuantized"): _lookup,
    ("", "Attention"): _attention,
    ("", "DequantizeLinear"): _experts,
}


def _inputs(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs if value is not None]


def _as_float(expression: Expression, value: ir.Value) -> ir.Value:
    return expression.op("Cast", [value], _FLOAT)


def _integers(expression: Expression, *numbers: int) -> ir.Value:
    return expression.constant(np.array(numbers, np.int64))

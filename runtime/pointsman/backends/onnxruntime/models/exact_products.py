"""Products of bytes that are exact where a processor's own saturate, with weights that stay as they are.

x86 processors without VNNI add products of unsigned and signed bytes up in pairs of 16 bits. A pair of 255 × 127 is
more than these hold; two of 127 × 127, or of 128 × -128, are not. So the unsigned bytes are multiplied in two parts,
their lowest seven bits and their highest, as twice as many rows of one product, and the sums of both are added: weights
are read once.

    y = MatMulIntegerToFloat(x, w, x_scale, w_scale, x_zero)
    y = float(sum over both parts of MatMulInteger(x & [127, 128], w, x_zero / 2)) * (x_scale * w_scale)

Both are equal to the last bit where the first is exact. `x_zero` is even. Numbers of fields are those of
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from collections.abc import Iterable
from typing import Final

from pointsman.backends.onnxruntime.models.messages import field, fields, varint

PRODUCT: Final = b"MatMulIntegerToFloat"
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INTEGER, _ATTRIBUTE_TEXT, _ATTRIBUTE_KIND = 1, 3, 4, 20
_KIND_INTEGER, _KIND_TEXT = 2, 3
_TENSOR_DIMENSION, _TENSOR_ELEMENTS, _TENSOR_NAME, _TENSOR_BYTES = 1, 2, 8, 9
_FLOAT, _UINT8, _INT64 = 1, 2, 7
_PARTS, _FIRST_AXIS, _ONE = b"exact/parts", b"exact/first_axis", b"exact/one"


def in_parts(node: bytes) -> tuple[bytes, bytes]:
    """The nodes that take a product's place.

    Args:
        node: `MatMulIntegerToFloat` of two factors, their scales and the first one's zero point.

    Returns:
        Fields of a graph, and the name of the zero point.
    """
    x, weight, x_scale, weight_scale, zero = _texts(node, _NODE_INPUT)
    (y,) = _texts(node, _NODE_OUTPUT)
    parts, sums, both, real, scale = (y + b"/" + step for step in (b"parts", b"sums", b"both", b"real", b"scale"))
    nodes = (
        _node(b"BitwiseAnd", (x, _PARTS), parts),
        _node(b"MatMulInteger", (parts, weight, _half(zero)), sums),
        _node(b"ReduceSum", (sums, _FIRST_AXIS), both, _integer(b"keepdims", 0)),
        _node(b"Cast", (both,), real, _integer(b"to", _FLOAT)),
        _node(b"Mul", (x_scale, weight_scale), scale),
        _node(b"Mul", (real, scale), y),
    )
    return b"".join(nodes), zero


def shared_by_parts(zeros: Iterable[bytes]) -> bytes:
    """What all products in parts refer to, as fields of the outermost graph, which precede its others.

    Args:
        zeros: names of the products' zero points.
    """
    return b"".join(
        (
            _initializer(_PARTS, _UINT8, (2, 1, 1), bytes((127, 128))),
            _initializer(_FIRST_AXIS, _INT64, (1,), bytes(8)),
            _initializer(_ONE, _UINT8, (), bytes((1,))),
            *(_node(b"BitShift", (zero, _ONE), _half(zero), _text(b"direction", b"RIGHT")) for zero in zeros),
        )
    )


def operator(node: bytes) -> bytes:
    """The name of a node's operator."""
    return _texts(node, _NODE_OPERATOR)[0]


def _half(zero: bytes) -> bytes:
    return zero + b"/half"


def _texts(message: bytes, wanted: int) -> list[bytes]:
    return [content for number, content, _ in fields(message) if number == wanted]


def _node(name: bytes, inputs: Iterable[bytes], output: bytes, *attributes: bytes) -> bytes:
    parts = [field(_NODE_INPUT, each) for each in inputs]
    parts += [field(_NODE_OUTPUT, output), field(_NODE_OPERATOR, name)]
    parts += [field(_NODE_ATTRIBUTE, attribute) for attribute in attributes]
    return field(_GRAPH_NODE, b"".join(parts))


def _integer(name: bytes, value: int) -> bytes:
    return field(_ATTRIBUTE_NAME, name) + _number(_ATTRIBUTE_INTEGER, value) + _number(_ATTRIBUTE_KIND, _KIND_INTEGER)


def _text(name: bytes, value: bytes) -> bytes:
    return field(_ATTRIBUTE_NAME, name) + field(_ATTRIBUTE_TEXT, value) + _number(_ATTRIBUTE_KIND, _KIND_TEXT)


def _initializer(name: bytes, elements: int, shape: Iterable[int], content: bytes) -> bytes:
    parts = [_number(_TENSOR_DIMENSION, size) for size in shape]
    parts += [_number(_TENSOR_ELEMENTS, elements), field(_TENSOR_NAME, name), field(_TENSOR_BYTES, content)]
    return field(_GRAPH_INITIALIZER, b"".join(parts))


def _number(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)

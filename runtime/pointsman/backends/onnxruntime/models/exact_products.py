"""Products of bytes that are exact where a processor's own saturate, with weights that stay as they are.

x86 processors without VNNI add products of unsigned and signed bytes up in pairs of 16 bits. A pair of 255 × 127 is
more than these hold; two of 127 × 127, or of 128 × -128, are not. So the unsigned bytes are multiplied in two parts,
their lowest seven bits and their highest, as twice as many rows of one product, and the sums of both are added: weights
are read once.

    y = MatMulIntegerToFloat(x, w, x_scale, w_scale, x_zero)
    y = float(sum over both parts of MatMulInteger(x & [127, 128], w, x_zero / 2)) * (x_scale * w_scale)

Both are equal to the last bit where the first is exact. `x_zero` is even.
"""

from collections.abc import Iterable
from typing import Final

from pointsman.backends.onnxruntime.models.graphs import (
    FLOAT,
    INT64,
    UINT8,
    inputs_of,
    integer,
    new_initializer,
    new_node,
    output_of,
    text,
)

PRODUCT: Final = b"MatMulIntegerToFloat"
_PARTS, _FIRST_AXIS, _ONE = b"exact/parts", b"exact/first_axis", b"exact/one"


def in_parts(node: bytes) -> tuple[bytes, bytes]:
    """The nodes that take a product's place.

    Args:
        node: `MatMulIntegerToFloat` of two factors, their scales and the first one's zero point.

    Returns:
        Fields of a graph, and the name of the zero point.
    """
    x, weight, x_scale, weight_scale, zero = inputs_of(node)
    y = output_of(node)
    parts, sums, both, real, scale = (y + b"/" + step for step in (b"parts", b"sums", b"both", b"real", b"scale"))
    nodes = (
        new_node(b"BitwiseAnd", (x, _PARTS), parts),
        new_node(b"MatMulInteger", (parts, weight, _half(zero)), sums),
        new_node(b"ReduceSum", (sums, _FIRST_AXIS), both, integer(b"keepdims", 0)),
        new_node(b"Cast", (both,), real, integer(b"to", FLOAT)),
        new_node(b"Mul", (x_scale, weight_scale), scale),
        new_node(b"Mul", (real, scale), y),
    )
    return b"".join(nodes), zero


def shared_by_parts(zeros: Iterable[bytes]) -> bytes:
    """What all products in parts refer to, as fields of the outermost graph, which precede its others.

    Args:
        zeros: names of the products' zero points.
    """
    return b"".join(
        (
            new_initializer(_PARTS, UINT8, (2, 1, 1), bytes((127, 128))),
            new_initializer(_FIRST_AXIS, INT64, (1,), bytes(8)),
            new_initializer(_ONE, UINT8, (), bytes((1,))),
            *(new_node(b"BitShift", (zero, _ONE), _half(zero), text(b"direction", b"RIGHT")) for zero in zeros),
        )
    )


def _half(zero: bytes) -> bytes:
    return zero + b"/half"

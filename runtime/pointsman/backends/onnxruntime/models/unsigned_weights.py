"""Graphs whose products of integers have unsigned weights, which are given to the engine beside the graph.

    MatMulIntegerToFloat(x, w, x_scale, w_scale, x_zero)
    = MatMulIntegerToFloat(x, w + 128, x_scale, w_scale, x_zero, 128)

In memory, `w + 128` is `w` with the highest bit of each byte the other way round.
"""

from collections.abc import Set
from typing import Final

from pointsman.backends.onnxruntime.models.exact_products import PRODUCT
from pointsman.backends.onnxruntime.models.graphs import (
    INT8,
    UINT8,
    inputs_of,
    new_initializer,
    operator,
    output_of,
    renamed,
    retyped,
    rewritten,
)
from pointsman.backends.onnxruntime.models.tensors import Initializer, read_initializer

_ZERO: Final = b"unsigned/zero"
_SIGNED_INPUTS, _WEIGHT, _AXES = 5, 1, 2


def with_unsigned_weights(model: bytes) -> tuple[bytes, list[Initializer]]:
    """A serialized model with other products.

    Left as they are: weights that are no int8 matrices in external data, and those that something else uses too.

    Args:
        model: the model.

    Returns:
        The model, and the weights as they lie in the external data; unsigned ones must be given by their names.
    """
    left: set[bytes] = set()
    while True:
        products = _Products(left)
        changed = rewritten(model, products.node, products.initializer, _shared)
        unfit = (products.multiplied - products.weights.keys()) | (products.multiplied & products.used_elsewhere)
        if not unfit:
            return (changed, [*products.weights.values()]) if products.weights else (model, [])
        left |= unfit


class _Products:
    """What becomes of a graph's nodes and initializers, as `Change` says it; a graph's nodes come first.

    Attributes:
        multiplied: names of weights whose products were changed.
        weights: those of them that were found.
        used_elsewhere: what other nodes use, and other inputs of products.
    """

    def __init__(self, left: Set[bytes]) -> None:
        """Leave products with some weights as they are."""
        self._left = left
        self.multiplied: set[bytes] = set()
        self.weights: dict[bytes, Initializer] = {}
        self.used_elsewhere: set[bytes] = set()

    def node(self, node: bytes, branch: bool) -> bytes | None:  # noqa: ARG002, FBT001 - a `Change`
        inputs = inputs_of(node)
        is_signed = operator(node) == PRODUCT and len(inputs) == _SIGNED_INPUTS
        if not is_signed or inputs[_WEIGHT] in self._left:
            self.used_elsewhere.update(inputs)
            return None
        self.multiplied.add(inputs[_WEIGHT])
        self.used_elsewhere.update(inputs[:_WEIGHT], inputs[_WEIGHT + 1 :])
        return renamed(node, (*inputs, _ZERO), output_of(node))

    def initializer(self, tensor: bytes, branch: bool) -> bytes | None:  # noqa: ARG002, FBT001 - a `Change`
        read = read_initializer(tensor)
        is_fit = read.elements == INT8 and read.place is not None and len(read.shape) == _AXES
        if not is_fit or read.name not in self.multiplied:
            return None
        self.weights[read.name] = read
        return retyped(tensor, UINT8)


def _shared() -> bytes:
    return new_initializer(_ZERO, UINT8, (), bytes((128,)))

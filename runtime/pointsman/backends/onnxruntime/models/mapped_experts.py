"""Graphs whose experts ONNX Runtime maps from their file and reads when a token reaches them.

ONNX Runtime lays the weights of products out anew in memory of its own when it loads a graph, if they are constant. An
initializer that is also an input of its graph may be overridden, and so is not constant: it stays where it is, in the
mapped file. The codes of an integer variant's experts are initializers of their branches of an `If`; made inputs of
these, they are mapped, while all else is laid out as ever. Nobody gives such an input, and the results are the same.
Where a processor's products of bytes saturate, ONNX Runtime would rewrite constant weights for others; the products of
these are made in two parts instead (`exact_products.py`).

Numbers of fields are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from typing import Final

from pointsman.backends.onnxruntime.models.exact_products import PRODUCT, in_parts, shared_by_parts
from pointsman.backends.onnxruntime.models.graphs import INT8, kept, operator, rewritten
from pointsman.backends.onnxruntime.models.messages import field, varint
from pointsman.backends.onnxruntime.models.tensors import Stored, read_initializer

_GRAPH_INPUT: Final = 11
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR: Final = 1
_TENSOR_ELEMENTS: Final = 1


def with_mapped_experts(model: bytes, *, saturates: bool) -> tuple[bytes, list[Stored]]:
    """A serialized model of an integer variant in the fused form whose experts are mapped.

    Args:
        model: The model; initializers in branches are int8, and lie in external data.
        saturates: Whether this processor's products of bytes do.

    Returns:
        The model, and where the experts' codes lie.
    """
    places: list[Stored] = []
    zeros: dict[bytes, None] = {}

    def node(content: bytes, branch: bool) -> bytes | None:  # noqa: FBT001 - a `Change`
        if not (saturates and branch and operator(content) == PRODUCT):
            return None
        nodes, zero = in_parts(content)
        zeros[zero] = None
        return nodes

    def initializer(tensor: bytes, branch: bool) -> bytes | None:  # noqa: FBT001 - a `Change`
        read = read_initializer(tensor)
        if not branch or read.place is None:
            return None
        places.append(read.place)
        return kept(tensor) + _input(read.name)

    return rewritten(model, node, initializer, lambda: shared_by_parts(zeros) if zeros else b""), places


def _input(name: bytes) -> bytes:
    kind = field(_TYPE_TENSOR, varint(_TENSOR_ELEMENTS << 3) + varint(INT8))
    return field(_GRAPH_INPUT, field(_VALUE_NAME, name) + field(_VALUE_TYPE, kind))

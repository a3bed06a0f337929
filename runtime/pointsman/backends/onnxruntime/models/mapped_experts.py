"""Graphs whose experts ONNX Runtime maps from their file and reads when a token reaches them.

ONNX Runtime lays the weights of products out anew in memory of its own when it loads a graph, if they are constant. An
initializer that is also an input of its graph may be overridden, and so is not constant: it stays where it is, in the
mapped file. The codes of an integer variant's experts are initializers of their branches of an `If`; made inputs of
these, they are mapped, while all else is laid out as ever. Nobody gives such an input, and the results are the same.
Where a processor's products of bytes saturate, ONNX Runtime would rewrite constant weights for others; the products of
these are made in two parts instead (`exact_products.py`).

Numbers of fields are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from dataclasses import dataclass
from typing import Final

from pointsman.backends.onnxruntime.models.exact_products import PRODUCT, in_parts, operator, shared_by_parts
from pointsman.backends.onnxruntime.models.messages import field, fields, varint

_MODEL_GRAPH: Final = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT = 1, 5, 11
_NODE_ATTRIBUTE: Final = 5
_ATTRIBUTE_GRAPH: Final = 6
_TENSOR_NAME, _TENSOR_PLACE = 8, 13
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR: Final = 1
_TENSOR_ELEMENTS: Final = 1
_INT8: Final = 3


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor lies in the file of the weights: both numbers are of bytes."""

    offset: int
    length: int


def with_mapped_experts(model: bytes, *, saturates: bool) -> tuple[bytes, list[Stored]]:
    """A serialized model of an integer variant in the fused form whose experts are mapped.

    Args:
        model: The model; initializers in branches are int8, and lie in external data.
        saturates: Whether this processor's products of bytes do.

    Returns:
        The model, and where the experts' codes lie.
    """
    found = _Found([], {} if saturates else None)
    parts = [
        field(number, _outermost(content, found)) if number == _MODEL_GRAPH else whole
        for number, content, whole in fields(model)
    ]
    return b"".join(parts), found.places


@dataclass(frozen=True, slots=True)
class _Found:
    """What was met in branches.

    Attributes:
        places: of weights.
        zeros: names of the zero points of products in parts, as keys; None where products stay whole.
    """

    places: list[Stored]
    zeros: dict[bytes, None] | None


def _outermost(graph: bytes, found: _Found) -> bytes:
    parts = [
        field(number, _node(content, found)) if number == _GRAPH_NODE else whole
        for number, content, whole in fields(graph)
    ]
    return (shared_by_parts(found.zeros) if found.zeros else b"") + b"".join(parts)


def _branch(graph: bytes, found: _Found) -> bytes:
    parts = []
    for number, content, whole in fields(graph):
        if number == _GRAPH_NODE:
            parts.append(_node_of_branch(content, found))
            continue
        parts.append(whole)
        if number == _GRAPH_INITIALIZER and (place := _place(content)) is not None:
            found.places.append(place)
            parts.append(_input(_text(content, _TENSOR_NAME)))
    return b"".join(parts)


def _node_of_branch(node: bytes, found: _Found) -> bytes:
    """A node, or what takes its place, as fields of its graph."""
    if found.zeros is None or operator(node) != PRODUCT:
        return field(_GRAPH_NODE, _node(node, found))
    nodes, zero = in_parts(node)
    found.zeros[zero] = None
    return nodes


def _node(node: bytes, found: _Found) -> bytes:
    parts = []
    for number, content, whole in fields(node):
        parts.append(field(number, _attribute(content, found)) if number == _NODE_ATTRIBUTE else whole)
    return b"".join(parts)


def _attribute(attribute: bytes, found: _Found) -> bytes:
    parts = []
    for number, content, whole in fields(attribute):
        parts.append(field(number, _branch(content, found)) if number == _ATTRIBUTE_GRAPH else whole)
    return b"".join(parts)


def _place(tensor: bytes) -> Stored | None:
    """Where a tensor lies in external data; None where it is part of the graph."""
    entries = [content for number, content, _ in fields(tensor) if number == _TENSOR_PLACE]
    said = {_text(entry, _ENTRY_KEY): _text(entry, _ENTRY_VALUE) for entry in entries}
    return Stored(int(said.get(b"offset", b"0")), int(said[b"length"])) if said else None


def _text(message: bytes, wanted: int) -> bytes:
    return next(content for number, content, _ in fields(message) if number == wanted)


def _input(name: bytes) -> bytes:
    kind = field(_TYPE_TENSOR, varint(_TENSOR_ELEMENTS << 3) + varint(_INT8))
    return field(_GRAPH_INPUT, field(_VALUE_NAME, name) + field(_VALUE_TYPE, kind))

"""Initializers of a serialized ONNX model, read without a library for ONNX.

Numbers of fields are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pointsman.backends.onnxruntime.models.messages import fields, integer_of

_DIMENSION, _ELEMENTS, _NAME, _PLACE = 1, 2, 8, 13
_ENTRY_KEY, _ENTRY_VALUE = 1, 2


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor lies in the file of the weights: both numbers are of bytes."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Initializer:
    """A tensor of a graph.

    Attributes:
        name: of its value.
        elements: its onnx.TensorProto.DataType.
        shape: its axes.
        place: in external data; None where it is part of the graph.
    """

    name: bytes
    elements: int
    shape: tuple[int, ...]
    place: Stored | None


def read_initializer(tensor: bytes) -> Initializer:
    """Of a serialized TensorProto."""
    name, elements = b"", 0
    shape: list[int] = []
    entries: dict[bytes, bytes] = {}
    for number, content, whole in fields(tensor):
        if number == _DIMENSION:
            shape.append(integer_of(whole))
        elif number == _ELEMENTS:
            elements = integer_of(whole)
        elif number == _NAME:
            name = content
        elif number == _PLACE:
            entries |= dict([_entry(content)])
    place = Stored(int(entries.get(b"offset", b"0")), int(entries[b"length"])) if entries else None
    return Initializer(name, elements, tuple(shape), place)


def _entry(content: bytes) -> tuple[bytes, bytes]:
    texts = {number: text for number, text, _ in fields(content)}
    return texts[_ENTRY_KEY], texts[_ENTRY_VALUE]


def read_initializers(tensors: Iterable[bytes]) -> dict[bytes, Initializer]:
    """Of serialized TensorProtos, by name."""
    return {tensor.name: tensor for tensor in map(read_initializer, tensors)}

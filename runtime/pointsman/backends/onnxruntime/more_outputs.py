"""Values inside a graph as further outputs of it, without a library for ONNX.

Protobuf joins two messages that are written one behind the other: lists are appended, and messages within them joined.
So a model that has nothing but a graph, which has nothing but outputs, adds these to the model before it. Numbers of
fields are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from collections.abc import Iterable
from typing import Final

_MODEL_GRAPH: Final = 7
_GRAPH_OUTPUT: Final = 12
_VALUE_NAME: Final = 1
_VALUE_TYPE: Final = 2
_TYPE_TENSOR: Final = 1
_TENSOR_ELEMENTS: Final = 1
_INT64: Final = 7
_OF_BYTES: Final = 2  # the wire type of messages and texts


def with_outputs(model: bytes, names: Iterable[str]) -> bytes:
    """A serialized ONNX model with further outputs.

    Args:
        model: The model.
        names: Of int64 values of its graph that are no outputs yet.
    """
    kind = _field(_VALUE_TYPE, _field(_TYPE_TENSOR, _varint(_TENSOR_ELEMENTS << 3) + _varint(_INT64)))
    outputs = (_field(_GRAPH_OUTPUT, _field(_VALUE_NAME, name.encode()) + kind) for name in names)
    return model + _field(_MODEL_GRAPH, b"".join(outputs))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _OF_BYTES) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """A number in groups of 7 bits, the lowest first; all but the last have the highest bit set."""
    groups = []
    while number >= 1 << 7:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])

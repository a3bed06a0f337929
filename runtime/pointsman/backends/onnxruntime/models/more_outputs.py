"""Values inside a graph as further outputs of it, without a library for ONNX.

Protobuf joins two messages that are written one behind the other: lists are appended, and messages within them joined.
So a model that has nothing but a graph, which has nothing but outputs, adds these to the model before it. Numbers of
fields are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from collections.abc import Iterable
from typing import Final

from pointsman.backends.onnxruntime.models.messages import field, varint

_MODEL_GRAPH: Final = 7
_GRAPH_OUTPUT: Final = 12
_VALUE_NAME: Final = 1
_VALUE_TYPE: Final = 2
_TYPE_TENSOR: Final = 1
_TENSOR_ELEMENTS: Final = 1
_INT64: Final = 7


def with_outputs(model: bytes, names: Iterable[str]) -> bytes:
    """A serialized ONNX model with further outputs.

    Args:
        model: The model.
        names: Of int64 values of its graph that are no outputs yet.
    """
    kind = field(_VALUE_TYPE, field(_TYPE_TENSOR, varint(_TENSOR_ELEMENTS << 3) + varint(_INT64)))
    outputs = (field(_GRAPH_OUTPUT, field(_VALUE_NAME, name.encode()) + kind) for name in names)
    return model + field(_MODEL_GRAPH, b"".join(outputs))

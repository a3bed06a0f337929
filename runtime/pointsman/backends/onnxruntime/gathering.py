"""Rows of a tensor on the device, gathered into a new one: a graph of one node, which is in no bundle.

The runtime has no library that writes graphs, and needs none for this one: ONNX is protobuf, whose fields are a number,
a length and bytes.
"""

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from pointsman.backends.onnxruntime.session import ELEMENT_TYPES, Device, session_of

_IR_VERSION, _OPSET = 10, 23
_INT64 = 7  # onnx.TensorProto.DataType
# onnx.proto, by message: the numbers of the fields that are written.
_MODEL_IR, _MODEL_GRAPH, _MODEL_OPSETS, _OPSET_VERSION = 1, 7, 8, 2
_GRAPH_NODES, _GRAPH_NAME, _GRAPH_INPUTS, _GRAPH_OUTPUTS = 1, 2, 11, 12
_NODE_INPUTS, _NODE_OUTPUTS, _NODE_OPERATOR = 1, 2, 4
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR, _TENSOR_ELEMENT, _TENSOR_SHAPE, _SHAPE_AXES = 1, 2, 1, 1, 2, 1
_VARINT, _BYTES = 0, 2  # how a field is stored


class Gathering:
    """The graph, loaded."""

    def __init__(self, dtype: str, device: Device) -> None:
        """Load it.

        Args:
            dtype: of the tensors, a floating-point one of an interface.
            device: where they are gathered.
        """
        self._element, self._device = ELEMENT_TYPES[dtype], device
        self._session = session_of(_model(self._element), device)

    def zeros(self, shape: tuple[int, ...]) -> Any:  # noqa: ANN401 - untyped engine
        """Zeros, in host memory."""
        zeros = np.zeros(shape, np.uint16 if self._element != ELEMENT_TYPES["float32"] else np.float32)
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(zeros, self._element)

    def run(self, value: Any, rows: NDArray[np.int64]) -> Any:  # noqa: ANN401 - untyped engine
        """Rows of a value, which is on the host or on the device, as a new value on the device."""
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("from", value)
        binding.bind_cpu_input("rows", rows)
        binding.bind_output("to", self._device)
        self._session.run_with_iobinding(binding)
        (gathered,) = binding.get_outputs()
        return gathered


def _model(element: int) -> bytes:
    """The file that onnx would write."""
    node = _text(_NODE_INPUTS, "from") + _text(_NODE_INPUTS, "rows") + _text(_NODE_OUTPUTS, "to")
    graph = _field(_GRAPH_NODES, node + _text(_NODE_OPERATOR, "Gather")) + _text(_GRAPH_NAME, "gathering")
    for place, name, kind, axes in (
        (_GRAPH_INPUTS, "from", element, 4),
        (_GRAPH_INPUTS, "rows", _INT64, 1),
        (_GRAPH_OUTPUTS, "to", element, 4),
    ):
        tensor = _number(_TENSOR_ELEMENT, kind) + _field(_TENSOR_SHAPE, axes * _field(_SHAPE_AXES, b""))  # of any sizes
        graph += _field(place, _text(_VALUE_NAME, name) + _field(_VALUE_TYPE, _field(_TYPE_TENSOR, tensor)))
    opset = _field(_MODEL_OPSETS, _number(_OPSET_VERSION, _OPSET))
    return _number(_MODEL_IR, _IR_VERSION) + _field(_MODEL_GRAPH, graph) + opset


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _text(number: int, content: str) -> bytes:
    return _field(number, content.encode())


def _number(number: int, content: int) -> bytes:
    return _varint(number << 3 | _VARINT) + _varint(content)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    low, high = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(high) if high else bytes([low])

"""Tensors of the Open Inference Protocol, version 2, in JSON and in binary.

Sources: https://github.com/kserve/open-inference-protocol and Triton's extension_binary_data.md. Elements are flat, in
row-major order. In binary, each element of BYTES is its length, 4 bytes little-endian, and its bytes; FP32 is 4 bytes
little-endian. The binary tensors follow the JSON in the body, in the order in which the JSON lists them.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field

from pointsman.serving.http.errors import RefusedError
from pointsman.serving.http.fields import Decoding, Strict, Whole

_LENGTH: Final = struct.Struct("<I")


class TensorParameters(Strict):
    """Where a tensor's data are."""

    binary_data_size: Whole | None = Field(default=None, description="Bytes of its data behind the JSON.")


class OutputParameters(Strict):
    """How an output is wanted."""

    binary_data: bool | None = Field(default=None, description="Behind the JSON, and not in it.")


class InputTensor(Strict):
    """Texts."""

    name: str = Field(examples=["text_input"])
    shape: list[Whole] = Field(max_length=4, examples=[[1]])
    datatype: str = Field(examples=["BYTES"])
    parameters: TensorParameters | None = None
    data: list[Any] | None = Field(default=None, examples=[["The <extra_id_0> walks in <extra_id_1> park."]])


class RequestedOutput(Strict):
    """An output that is wanted."""

    name: str
    parameters: OutputParameters | None = None


class InferParameters(Decoding):
    """Decoding options, and what the protocol knows beside them."""

    timeout: Annotated[int, Field(ge=1, le=10**15)] | None = Field(default=None, description="Microseconds to wait.")
    binary_data_output: bool | None = Field(default=None, description="All outputs behind the JSON.")

    @property
    def seconds(self) -> float | None:
        """How long the client waits."""
        return None if self.timeout is None else self.timeout / 1e6


class InferRequest(Strict):
    """What is asked for."""

    id: str | None = Field(default=None, max_length=256)
    parameters: InferParameters = InferParameters()
    inputs: list[InputTensor] = Field(max_length=16)
    outputs: list[RequestedOutput] | None = Field(default=None, max_length=16)


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """A result.

    Attributes:
        name: Its own.
        shape: Its own.
        datatype: Of the protocol.
        elements: As many as the shape says.
    """

    name: str
    shape: tuple[int, ...]
    datatype: Literal["BYTES", "FP32"]
    elements: Sequence[str] | Sequence[float]

    def binary(self) -> bytes:
        """Its elements behind the JSON."""
        if self.datatype == "FP32":
            return np.asarray(self.elements, "<f4").tobytes()
        encoded = [str(element).encode() for element in self.elements]
        return b"".join(_LENGTH.pack(len(element)) + element for element in encoded)


def texts_of(tensor: InputTensor, binary: bytes) -> tuple[list[str], int]:
    """The texts of an input.

    Args:
        tensor: The input.
        binary: What follows in the body.

    Returns:
        The texts, and how many bytes of the body they took.

    Raises:
        RefusedError: They are no texts, or not as many as the shape says.
    """
    if tensor.datatype != "BYTES":
        raise RefusedError(f"{_shown(tensor.name)} must be of datatype BYTES", param=tensor.name)
    size = tensor.parameters.binary_data_size if tensor.parameters else None
    if (size is None) == (tensor.data is None):
        raise RefusedError(f"{_shown(tensor.name)} needs either data or binary_data_size", param=tensor.name)
    texts = _flat(tensor.data or []) if size is None else _unpacked(binary, size)
    if len(texts) != math.prod(tensor.shape):
        raise RefusedError(f"{_shown(tensor.name)} has {len(texts)} elements, and its shape says otherwise")
    return texts, size or 0


def _flat(data: Sequence[Any]) -> list[str]:
    """The texts of lists in lists, which protocol and clients allow."""
    texts, left = [], [*reversed(data)]
    while left:
        element = left.pop()
        if isinstance(element, list):
            left.extend(reversed(element))
        elif isinstance(element, str):
            texts.append(element)
        else:
            raise RefusedError("elements of BYTES must be strings")
    return texts


def _unpacked(binary: bytes, size: int) -> list[str]:
    if size > len(binary):
        raise RefusedError(f"the body ends {size - len(binary)} bytes before a tensor does")
    texts, place = [], 0
    while place < size:
        if place + _LENGTH.size > size:
            raise RefusedError("a binary tensor ends within the length of an element")
        (length,) = _LENGTH.unpack_from(binary, place)
        place += _LENGTH.size
        if place + length > size:
            raise RefusedError("a binary tensor ends within an element")
        try:
            texts.append(binary[place : place + length].decode())
        except UnicodeDecodeError:
            raise RefusedError("an element of a binary tensor is not UTF-8") from None
        place += length
    return texts


def _shown(name: str) -> str:
    return f"input {name[:40]}"

"""Where a tensor's bytes lie in a file, and how they are read.

Bytes are read by position into fresh arrays, and files are never mapped: mapped pages are resident memory, so a
map would grow with what has been read until the whole checkpoint is resident.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from pointsman.errors import CheckpointError

FloatArray = NDArray[Any]
"""float32, float16 or ``ml_dtypes.bfloat16``; the last has no static type in NumPy."""

NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}

_OPEN_FILES = 8
_BLOCK_ELEMENTS = 1 << 20
_BFLOAT16_EXPONENT = np.uint16(0x7F80)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What is known of a tensor before any of it is read.

    Attributes:
        name: The name it has in the checkpoint.
        shape: Its dimensions.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``; of a tensor that cannot be read, what its file says.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor when contiguous."""
        return math.prod(self.shape) * NUMPY_DTYPES[self.dtype].itemsize


class Stored(Protocol):
    """A tensor that has not been read."""

    @property
    def info(self) -> TensorInfo:
        """Name, shape and dtype."""

    def read(self, files: "OpenFiles") -> FloatArray:
        """Read the tensor into memory of its own."""

    def shares_place_with(self, other: "Stored") -> bool:
        """Whether both are the same elements, stored once."""

    def row_blocks(self) -> "Iterator[Stored]":
        """Cut the tensor along its first axis, by shape alone."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor's place in a file.

    Attributes:
        info: Name, shape and dtype.
        file: The file that holds it.
        offset: Position of the first element in the file, in bytes.
        strides: Distance between neighbours along each axis, in elements; None when contiguous.
    """

    info: TensorInfo
    file: Path
    offset: int
    strides: tuple[int, ...] | None = None

    @property
    def span(self) -> int:
        """Bytes from the first element to the end of the last."""
        if self.strides is None or 0 in self.info.shape:
            return self.info.nbytes
        last = sum((size - 1) * stride for size, stride in zip(self.info.shape, self.strides, strict=True))
        return (last + 1) * NUMPY_DTYPES[self.info.dtype].itemsize

    def named(self, name: str) -> "StoredTensor":
        """The same tensor under another name."""
        return replace(self, info=replace(self.info, name=name))

    def read(self, files: "OpenFiles") -> FloatArray:
        """Read the tensor into memory of its own.

        Raises:
            CheckpointError: The file is gone or ends early.
        """
        flat = files.read(self.file, self.offset, self.span).view(NUMPY_DTYPES[self.info.dtype])
        if self.strides is None:
            return flat.reshape(self.info.shape)
        strides = [stride * flat.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(flat, self.info.shape, strides).copy()

    def shares_place_with(self, other: Stored) -> bool:
        """Whether both are the same elements of one storage, as tied tensors of a ``.bin`` file are."""
        if not isinstance(other, StoredTensor):
            return False
        return (self.file, self.offset, self.strides) == (other.file, other.offset, other.strides) and (
            self.info.shape,
            self.info.dtype,
        ) == (other.info.shape, other.info.dtype)

    def row_blocks(self) -> Iterator[Stored]:
        """Cut the tensor along its first axis into blocks of a few megabytes, by shape alone."""
        rows, *rest = self.info.shape
        row_elements = math.prod(rest)
        row_stride = row_elements if self.strides is None else self.strides[0]
        itemsize = NUMPY_DTYPES[self.info.dtype].itemsize
        step = max(1, _BLOCK_ELEMENTS // max(1, row_elements))
        for start in range(0, rows, step):
            shape = (min(step, rows - start), *rest)
            offset = self.offset + start * row_stride * itemsize
            yield replace(self, info=replace(self.info, shape=shape), offset=offset)


class OpenFiles:
    """The few files read last, kept open: a thousand shards must not take a thousand handles."""

    def __init__(self, limit: int = _OPEN_FILES) -> None:
        self._limit = limit
        self._files: OrderedDict[Path, FileIO] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._files)

    def read(self, path: Path, offset: int, nbytes: int) -> NDArray[np.uint8]:
        """Read ``nbytes`` bytes at ``offset`` of ``path`` into a new array.

        Raises:
            CheckpointError: The file cannot be read or ends early.
        """
        data = self.read_up_to(path, offset, nbytes)
        if data.size < nbytes:
            raise CheckpointError(f"{path} has ended {nbytes - data.size} bytes early; fetch the file again")
        return data

    def read_up_to(self, path: Path, offset: int, nbytes: int) -> NDArray[np.uint8]:
        """Read ``nbytes`` bytes at ``offset`` of ``path``, or as many as there are before its end.

        Raises:
            CheckpointError: The file cannot be read.
        """
        data = np.empty(nbytes, np.uint8)
        try:
            with self._lock:
                filled = _fill(self._opened(path), offset, data.data)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error.strerror}); restore the file") from error
        return data[:filled]

    def close(self) -> None:
        """Close every file; a later read opens it anew."""
        with self._lock:
            while self._files:
                self._files.popitem()[1].close()

    def _opened(self, path: Path) -> FileIO:
        if path in self._files:
            self._files.move_to_end(path)
            return self._files[path]
        while len(self._files) >= self._limit:
            self._files.popitem(last=False)[1].close()
        file = self._files[path] = FileIO(path)
        return file


def _fill(file: FileIO, offset: int, target: memoryview) -> int:
    """Read until ``target`` is full or the file ends: one read returns at most 2 GiB on Linux."""
    file.seek(offset)
    filled = 0
    while filled < len(target) and (count := file.readinto(target[filled:])):
        filled += count
    return filled


def check_finite(array: FloatArray, name: str) -> None:
    """Refuse weights that are not numbers.

    Args:
        array: Weights of any supported dtype.
        name: The tensor's name, for the message.

    Raises:
        CheckpointError: ``array`` holds NaN or Inf.
    """
    if unusable := not_finite(array):
        raise CheckpointError(
            f"{name} holds {unusable} values of {array.size} that are NaN or Inf; use an intact checkpoint"
        )


def not_finite(array: FloatArray) -> int:
    """How many values are NaN or Inf, counted a few megabytes at a time."""
    flat = array.reshape(-1)
    blocks = (flat[start : start + _BLOCK_ELEMENTS] for start in range(0, flat.size, _BLOCK_ELEMENTS))
    return sum(block.size - int(np.count_nonzero(_finite(block))) for block in blocks)


def _finite(array: FloatArray) -> NDArray[np.bool_]:
    finite: NDArray[np.bool_]
    if array.dtype == ml_dtypes.bfloat16:
        # By bits, because NumPy's loops know nothing of bfloat16.
        finite = (array.view(np.uint16) & _BFLOAT16_EXPONENT) != _BFLOAT16_EXPONENT
    else:
        finite = np.isfinite(array)
    return finite

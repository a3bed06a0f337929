"""Arrays of a T5X checkpoint: zarr (version 2) directories, or bytes within the msgpack file.

Format: https://zarr-specs.readthedocs.io/en/latest/v2/v2.0.html. Beyond it, T5X writes the dtype ``"bfloat16"``. A
chunk that is absent stands for the fill value there; T5X writes all chunks, so that here one is missing.
"""

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pointsman.errors import CheckpointError
from pointsman_export.checkpoint.layout import load_json
from pointsman_export.checkpoint.stored import NUMPY_DTYPES, FloatArray, OpenFiles
from pointsman_export.checkpoint.t5x.chunks import Chunk, ChunkReader

METADATA = ".zarray"
_DTYPES = {"<f4": "float32", "<f2": "float16", "bfloat16": "bfloat16"}
_DTYPE_OF_VERSION_2 = "<u2"
_COMPRESSORS = ("gzip", "zlib")
_DEFAULTS: Mapping[str, object] = {"filters": None, "dimension_separator": "."}
_READ: Mapping[str, Sequence[object]] = {
    "zarr_format": (2,),
    "order": ("C",),
    "filters": (None, []),
    "dimension_separator": (".",),
}
"""Settings of ``.zarray`` that there are others of, and what is read."""


class StoredArray(Protocol):
    """An array that has not been read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""

    @property
    def dtype(self) -> str:
        """A key of `NUMPY_DTYPES`, or what its file says."""

    def read(self, files: OpenFiles) -> FloatArray:
        """All of it."""

    def rows(self, first: int, end: int, files: OpenFiles) -> FloatArray:
        """``array[first:end]``."""


@dataclass(frozen=True, slots=True)
class InlineArray:
    """An array within the msgpack file.

    Attributes:
        shape: Its dimensions.
        dtype: A key of `NUMPY_DTYPES`, or what the file says.
        data: Its values in C order.
    """

    shape: tuple[int, ...]
    dtype: str
    data: bytes

    def read(self, files: OpenFiles) -> FloatArray:  # noqa: ARG002 - nothing to open
        """All of it."""
        return np.frombuffer(self.data, NUMPY_DTYPES[self.dtype]).reshape(self.shape).copy()

    def rows(self, first: int, end: int, files: OpenFiles) -> FloatArray:
        """``array[first:end]``."""
        return self.read(files)[first:end].copy()


@dataclass(frozen=True, slots=True)
class ZarrArray:
    """An array in a folder of chunks.

    Attributes:
        folder: Holds ``.zarray`` and the chunks.
        shape: Its dimensions.
        chunks: Those of a chunk; one at the edge is as large, and filled up.
        dtype: A key of `NUMPY_DTYPES`, or what ``.zarray`` says.
        compressed: Whether chunks are, with gzip or zlib.
        reader: Reads the chunks.
    """

    folder: Path
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    compressed: bool
    reader: ChunkReader

    @property
    def grid(self) -> tuple[int, ...]:
        """Chunks along each axis."""
        return tuple(-(-size // step) for size, step in zip(self.shape, self.chunks, strict=True))

    def read(self, files: OpenFiles) -> FloatArray:
        """All of it."""
        if self.shape:
            return self.rows(0, self.shape[0], files)
        (single,) = ZarrArray(self.folder, (1,), (1,), self.dtype, self.compressed, self.reader).rows(0, 1, files)
        return np.asarray(single)

    def rows(self, first: int, end: int, files: OpenFiles) -> FloatArray:
        """``array[first:end]``, into memory of its own; of chunks, one at a time is in memory beside it.

        Raises:
            CheckpointError: A chunk is gone, damaged, or holds another number of bytes.
        """
        values = np.empty((end - first, *self.shape[1:]), NUMPY_DTYPES[self.dtype])
        step = self.chunks[0]
        for place in itertools.product(range(first // step, -(-end // step)), *map(range, self.grid[1:])):
            top, bottom = max(first, place[0] * step), min(end, (place[0] + 1) * step)
            corner = [number * size for number, size in zip(place, self.chunks, strict=True)][1:]
            spaces = zip(corner, self.chunks[1:], strict=True)
            target = values[
                (slice(top - first, bottom - first), *(slice(start, start + size) for start, size in spaces))
            ]
            self._read_rows(place, top - place[0] * step, target, files)
        return values

    def _read_rows(self, place: tuple[int, ...], start: int, target: FloatArray, files: OpenFiles) -> None:
        """Fill a chunk's part of the result with the chunk's rows from ``start`` on."""
        rest = self.chunks[1:]
        straight = target.shape[1:] == rest == self.shape[1:]
        rows = target if straight else np.empty((len(target), *rest), target.dtype)
        row_bytes = math.prod(rest) * target.itemsize
        self.reader.read(self._chunk(place, row_bytes), start * row_bytes, rows.reshape(-1).view(np.uint8).data, files)
        if not straight:
            target[...] = rows[tuple(map(slice, target.shape))]

    def _chunk(self, place: tuple[int, ...], row_bytes: int) -> Chunk:
        used = min(self.chunks[0], self.shape[0] - place[0] * self.chunks[0])
        return Chunk(self._file(place), self.chunks[0] * row_bytes, used * row_bytes, self.compressed)

    def _file(self, place: tuple[int, ...]) -> Path:
        return self.folder / _name(place)


def open_array(folder: Path, reader: ChunkReader) -> ZarrArray:
    """Read ``.zarray``, and see that every chunk is there.

    Raises:
        CheckpointError: The folder is incomplete, or its settings are damaged or others than T5X's.
    """
    path = folder / METADATA
    settings = {**_DEFAULTS, **load_json(path)}
    shape, chunks = (sizes(settings.get(key)) for key in ("shape", "chunks"))
    if shape is None or chunks is None or len(shape) != len(chunks) or 0 in chunks:
        raise CheckpointError(f"{path} does not give an array's shape and chunks; fetch the file again")
    for key, values in _READ.items():
        if settings.get(key) not in values:
            raise CheckpointError(
                f"{path} says {key} is {json.dumps(settings.get(key))}, and only {json.dumps(values[0])} is read; "
                "save the checkpoint from T5X"
            )
    array = ZarrArray(folder, shape, chunks, _dtype(path, settings), _compressed(path, settings), reader)
    _check_chunks(array)
    return array


def sizes(value: object) -> tuple[int, ...] | None:
    """A list of sizes as a tuple; None for what is no such list."""
    if isinstance(value, list) and all(type(size) is int and size >= 0 for size in value):
        return tuple(value)
    return None


def _dtype(path: Path, settings: Mapping[str, Any]) -> str:
    dtype = settings.get("dtype")
    if dtype == _DTYPE_OF_VERSION_2:
        raise CheckpointError(
            f"{path} says {dtype}, as which T5X kept bfloat16 before version 3 of its checkpoints; "
            "restore it in T5X and save it again"
        )
    return _DTYPES.get(str(dtype), str(dtype))


def _compressed(path: Path, settings: Mapping[str, Any]) -> bool:
    match settings.get("compressor"):
        case None:
            return False
        case {"id": str(name)} if name in _COMPRESSORS:
            return True
        case {"id": str(name)}:
            raise CheckpointError(
                f"{path} says that chunks are compressed with {name}, and only {' and '.join(_COMPRESSORS)} are read; "
                "save the checkpoint from T5X with use_orbax = False"
            )
        case other:
            raise CheckpointError(f"{path} has a damaged compressor ({json.dumps(other)}); fetch the file again")


def _check_chunks(array: ZarrArray) -> None:
    present = {path.name for path in array.folder.iterdir()}
    missing = (name for name in map(_name, _places(array.grid)) if name not in present)
    if absent := next(missing, None):
        raise CheckpointError(
            f"{array.folder / absent} is missing, one of {math.prod(array.grid)} chunks; fetch the folder again"
        )


def _name(place: tuple[int, ...]) -> str:
    return ".".join(map(str, place)) or "0"


def _places(grid: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Every place of a grid, in order, and none held: a damaged shape can ask for billions."""
    if not grid:
        yield ()
        return
    for first in range(grid[0]):
        for rest in _places(grid[1:]):
            yield (first, *rest)

"""T5X's checkpoints for tests: two that T5X wrote, and a writer of small ones in every shape of chunks."""

import gzip
import json
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import msgpack
import numpy as np
from numpy.typing import NDArray

from places import EXAMPLES, ROOT

ARCHIVES = ROOT / "tests" / "data" / "t5x"
SPIECE = EXAMPLES / "demo_model" / "spiece.model"
"""4,068 ids with its sentinels, for the 4,096 rows of T5X's."""

Compressor = Literal["gzip", "zlib"] | None
Array = NDArray[Any]

_ZARR_DTYPES = {"float32": "<f4", "float16": "<f2", "bfloat16": "bfloat16", "int32": "<i4"}


@dataclass(frozen=True, slots=True)
class Original:
    """A checkpoint of T5X's, and what flaxformer made of it."""

    folder: Path
    encoder_ids: Array
    decoder_ids: Array
    logits: Array


def unpack(name: str, folder: Path) -> Original:
    """Unpack one of the archives: `relu_tied` or `gated_untied`."""
    with tarfile.open(ARCHIVES / f"{name}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    with np.load(folder / f"{name}.npz") as expected:
        return Original(folder / name / "checkpoint_500100", **{key: expected[key] for key in expected})


@dataclass(frozen=True, slots=True)
class Zarr:
    """An array to write into a folder."""

    values: Array
    chunks: Sequence[int]
    compressor: Compressor = "gzip"


def write_t5x(folder: Path, arrays: Mapping[str, Zarr | Array], *, version: object = 3) -> Path:
    """Write a checkpoint of arrays by their place in the tree, `encoder/encoder_norm/scale`; bare ones into msgpack."""
    folder.mkdir(parents=True, exist_ok=True)
    tree: dict[str, Any] = {}
    for place, array in arrays.items():
        *parents, last = place.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = _spec(folder, place, array) if isinstance(array, Zarr) else inline(array)
    write_tree(folder, {"version": version, "optimizer": {"state": {"step": inline(np.zeros(1))}, "target": tree}})
    return folder


def write_tree(folder: Path, tree: object) -> None:
    """Write the msgpack file."""
    (folder / "checkpoint").write_bytes(msgpack.packb(tree))


def read_tree(folder: Path) -> Any:
    """What the msgpack file holds."""
    return msgpack.unpackb((folder / "checkpoint").read_bytes())


def inline(array: Array) -> msgpack.ExtType:
    """An array as flax packs it."""
    return msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))


def _spec(folder: Path, place: str, array: Zarr) -> dict[str, Any]:
    name = ".".join(("target", *place.split("/")))
    write_zarr(folder / name, array)
    return {
        "driver": "zarr",
        "dtype": array.values.dtype.name,
        "kvstore": {"driver": "gcs", "bucket": "t5x-dummy-bucket", "path": f"runs/one/{folder.name}/{name}/"},
        "metadata": {"shape": list(array.values.shape)},
    }


def write_zarr(folder: Path, array: Zarr) -> None:
    """Write an array's chunks; those at the edge are filled up with NaN, which nobody may read."""
    folder.mkdir()
    values, chunks = array.values, tuple(array.chunks)
    for place in np.ndindex(*(-(-size // step) for size, step in zip(values.shape, chunks, strict=True))):
        corner = [number * step for number, step in zip(place, chunks, strict=True)]
        part = values[tuple(slice(start, start + step) for start, step in zip(corner, chunks, strict=True))]
        chunk = np.full(chunks, np.nan, np.float32).astype(values.dtype)
        chunk[tuple(map(slice, part.shape))] = part
        (folder / (".".join(map(str, place)) or "0")).write_bytes(_compressed(chunk.tobytes(), array.compressor))
    (folder / ".zarray").write_text(json.dumps(zarray(array)))


def zarray(array: Zarr) -> dict[str, Any]:
    """An array's settings, as T5X has them."""
    return {
        "zarr_format": 2,
        "shape": list(array.values.shape),
        "chunks": list(array.chunks),
        "dtype": _ZARR_DTYPES[array.values.dtype.name],
        "compressor": {"id": array.compressor, "level": 1} if array.compressor else None,
        "dimension_separator": ".",
        "fill_value": None,
        "filters": None,
        "order": "C",
    }


def _compressed(data: bytes, compressor: Compressor) -> bytes:
    if compressor is None:
        return data
    return gzip.compress(data, 1) if compressor == "gzip" else zlib.compress(data, 1)


def random_array(generator: np.random.Generator, shape: Sequence[int], dtype: str = "float32") -> Array:
    """Values that compress badly."""
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    return generator.standard_normal(tuple(shape)).astype(kind)

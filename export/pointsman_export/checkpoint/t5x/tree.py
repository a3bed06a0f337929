"""The msgpack file of a T5X checkpoint: which arrays there are, and which folder holds each.

``{"version": 3, "optimizer": {"target": tree, "state": …}}``. A leaf of the tree is an array (flax's extension type 1:
msgpack of shape, dtype's name and bytes) or tensorstore's specification of a zarr array. The optimizer's state, which
can be hundreds of megabytes, is passed over and never built.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path, PurePosixPath

import msgpack

from pointsman.errors import CheckpointError
from pointsman_export.checkpoint.t5x.names import Keys

FILE = "checkpoint"
CONVERT = "save it from T5X with use_orbax = False, or convert it to Hugging Face's layout"
VERSION = 3
TARGET = "target"
_ARRAY_TYPES = (1, 3)  # flax's extension types of an array and of a NumPy scalar
_MOST_ITEMS = 1 << 20  # of one list or mapping: a damaged length must not become memory
_PLACEHOLDER = "PLACEHOLDER://"
_FOREIGN = {
    b"model_checkpoint_path": "belongs to a TensorFlow checkpoint; convert it to T5X or Hugging Face's layout first",
    b"version https://git-lfs": "is a Git LFS pointer, not the checkpoint; run `git lfs pull`",
}


@dataclass(frozen=True, slots=True)
class Inline:
    """An array within the file: its shape, dtype and bytes as msgpack."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Outside:
    """An array in a folder.

    Attributes:
        folder: Its name, beside the file wherever it was written.
        shape: What the specification says it is, if it says so.
    """

    folder: str
    shape: tuple[int, ...] | None


Leaf = Inline | Outside


def read_tree(file: Path) -> dict[Keys, Leaf]:
    """Read which parameters a checkpoint has.

    Raises:
        CheckpointError: The file is no T5X checkpoint of version 3, or is damaged.
    """
    with file.open("rb") as stream:
        _refuse_foreign(file, stream)
        try:
            version, target = _version_and_target(stream, file.stat().st_size)
        except (msgpack.UnpackException, ValueError, RecursionError, MemoryError) as error:
            raise CheckpointError(f"{file} is truncated or damaged msgpack; fetch the file again") from error
    _check_version(file, version)
    if not isinstance(target, dict) or not target:
        raise CheckpointError(f"{file} holds no parameters under optimizer/{TARGET}; use a T5X checkpoint of a model")
    return dict(_leaves(file, (), target))


def _refuse_foreign(file: Path, stream: BufferedReader) -> None:
    start = stream.peek(max(map(len, _FOREIGN)))
    for sign, sentence in _FOREIGN.items():
        if start.startswith(sign):
            raise CheckpointError(f"{file} {sentence}")


def _version_and_target(stream: BufferedReader, size: int) -> tuple[object, object]:
    unpacker = msgpack.Unpacker(
        stream, max_buffer_size=max(size, 1), max_array_len=_MOST_ITEMS, max_map_len=_MOST_ITEMS
    )
    found = dict.fromkeys(("version", TARGET))
    for key in _keys(unpacker):
        if key == "version":
            found[key] = unpacker.unpack()
        elif key == "optimizer":
            for part in _keys(unpacker):
                if part == TARGET:
                    found[part] = unpacker.unpack()
                else:
                    unpacker.skip()
        else:
            unpacker.skip()
    if unpacker.tell() != size:
        raise ValueError("bytes after the end")
    return found["version"], found[TARGET]


def _keys(unpacker: msgpack.Unpacker) -> Iterator[object]:
    """Keys of the mapping that comes next; the caller takes or skips each value."""
    for _ in range(unpacker.read_map_header()):
        yield unpacker.unpack()


def _check_version(file: Path, version: object) -> None:
    if version == VERSION:
        return
    if version is None and _PLACEHOLDER.encode() in file.read_bytes():
        raise CheckpointError(f"{file} was written by Orbax, whose layout is not read; {CONVERT}")
    why = ", which kept bfloat16 as 16-bit integers" if version == VERSION - 1 else ""
    raise CheckpointError(
        f"{file} is of version {version}{why}; Pointsman reads version {VERSION}: restore it in T5X and save it again"
    )


def _leaves(file: Path, path: Keys, node: object) -> Iterator[tuple[Keys, Leaf]]:
    match node:
        case msgpack.ExtType(code=code, data=data) if code in _ARRAY_TYPES:
            yield path, Inline(data)
        case {"driver": str(driver), **spec}:
            yield path, _outside(file, path, driver, spec)
        case dict():
            for key, value in node.items():
                yield from _leaves(file, (*path, str(key)), value)
        case str() if node.startswith(_PLACEHOLDER):
            raise CheckpointError(f"{file} was written by Orbax ({_shown(path)} is {node}); {CONVERT}")
        case _:
            raise CheckpointError(f"{file} holds no array at {_shown(path)}; fetch the file again")


def _outside(file: Path, path: Keys, driver: str, spec: Mapping[object, object]) -> Outside:
    """The folder's name is the last part of the specified path: where it was written is of no concern."""
    store = spec.get("kvstore")
    # Before tensorstore 0.1.14, the path stood beside the key-value store.
    place = (store.get("path") if isinstance(store, dict) else None) or spec.get("path")
    name = PurePosixPath(place).name if isinstance(place, str) else ""
    if driver != "zarr" or name in ("", ".."):
        raise CheckpointError(
            f"{file} keeps {_shown(path)} in a store that is not read (driver {driver}, path {place}); {CONVERT}"
        )
    return Outside(name, _shape(spec.get("metadata")))


def _shape(metadata: object) -> tuple[int, ...] | None:
    shape = metadata.get("shape") if isinstance(metadata, dict) else None
    return tuple(shape) if isinstance(shape, list) else None


def _shown(path: Keys) -> str:
    return "/".join((TARGET, *path))

"""A folder that T5X wrote: whether there is one, and what it holds."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import msgpack

from pointsman.bundle.names import HEAD
from pointsman.errors import CheckpointError
from pointsman_export.checkpoint.stored import NUMPY_DTYPES, Stored, TensorInfo
from pointsman_export.checkpoint.t5x import tree
from pointsman_export.checkpoint.t5x.arrays import InlineArray, StoredArray, open_array, sizes
from pointsman_export.checkpoint.t5x.chunks import ChunkReader
from pointsman_export.checkpoint.t5x.names import Keys, is_scanned, place_of
from pointsman_export.checkpoint.t5x.tensors import T5xTensor, tensors_of

_ARRAYS = f"{tree.TARGET}."
_NUMBERED = re.compile(r"checkpoint_\d+")
_OTHER_LAYOUTS = {
    "OCDBT": re.compile(r"manifest\.ocdbt|ocdbt\.process_\d+"),
    "Orbax": re.compile(r"_METADATA|_CHECKPOINT_METADATA|_sharding"),
}
_ITEMS = ("default", "state", "params")  # folders in which Orbax's managers put a model


def is_here(folder: Path) -> bool:
    """Whether a folder holds a checkpoint that T5X wrote, whole or not.

    Raises:
        CheckpointError: It holds one that Orbax wrote.
    """
    paths = list(folder.iterdir())
    for path in [*paths, *(inner for name in _ITEMS for inner in (folder / name).glob("*"))]:
        for layout, sign in _OTHER_LAYOUTS.items():
            if sign.fullmatch(path.name):
                raise CheckpointError(f"{path} belongs to {layout}'s layout, which is not read; {tree.CONVERT}")
    names = [path.name for path in paths]
    return tree.FILE in names or has_arrays(names)


def has_arrays(names: Collection[str]) -> bool:
    """Whether a folder with files of these names has arrays of T5X's."""
    return any(name.startswith(_ARRAYS) for name in names)


def numbered(folder: Path) -> list[Path]:
    """Folders in a folder that are called as T5X calls checkpoints."""
    return sorted(path for path in folder.iterdir() if _NUMBERED.fullmatch(path.name) and path.is_dir())


def listing(folder: Path) -> dict[str, Stored]:
    """Every tensor.

    Arrays that a Switch model has no place for go by the names of their folders.

    Raises:
        CheckpointError: Files are missing or damaged, or layers are scanned.
    """
    file = folder / tree.FILE
    if not file.is_file():
        raise CheckpointError(
            f"{folder} has arrays of a T5X checkpoint and lacks the file {tree.FILE}, which T5X writes last; "
            "fetch the folder again"
        )
    leaves = tree.read_tree(file)
    if scanned := [keys for keys in leaves if is_scanned(keys)]:
        raise CheckpointError(
            f"{file} has scanned layers ({'/'.join(scanned[0])}), which are not read; "
            "unstack them in T5X and save the model with scan_layers = False"
        )
    reader = ChunkReader()
    arrays = {keys: _array(folder, keys, leaf, reader) for keys, leaf in leaves.items()}
    return {tensor.info.name: tensor for keys, array in arrays.items() for tensor in _tensors(keys, array)}


def config(names: Collection[str]) -> dict[str, Any]:
    """What a T5X checkpoint's ``config.json`` would say, of what the exporter asks it for.

    T5X fixes these by its model's classes: gated feed-forward networks are gelu in its tanh form times linear, others
    relu, and the head is the embedding where there is no other. All else is at its default.
    """
    gated = any(name.endswith(".wi_0.weight") for name in names)
    return {"tie_word_embeddings": HEAD not in names, "feed_forward_proj": "gated-gelu" if gated else "relu"}


def _array(folder: Path, keys: Keys, leaf: tree.Leaf, reader: ChunkReader) -> StoredArray:
    if isinstance(leaf, tree.Inline):
        return _inline(folder / tree.FILE, keys, leaf)
    array = open_array(folder / leaf.folder, reader)
    if leaf.shape is not None and leaf.shape != array.shape:
        raise CheckpointError(
            f"{array.folder} has the shape {list(array.shape)} by its .zarray and {list(leaf.shape)} by "
            f"{tree.FILE}; fetch both again"
        )
    return array


def _inline(file: Path, keys: Keys, leaf: tree.Inline) -> InlineArray:
    match _unpacked(leaf.data):
        case [list() as said, str(dtype), bytes(data)] if (shape := sizes(said)) is not None:
            array = InlineArray(shape, dtype, data)
            # A dtype that is not supported matters only where the array is used, and is refused there.
            if dtype not in NUMPY_DTYPES or TensorInfo("", array.shape, dtype).nbytes == len(data):
                return array
    raise CheckpointError(f"{file} has a damaged array at {'/'.join(keys)}; fetch the file again")


def _unpacked(data: bytes) -> object:
    try:
        return msgpack.unpackb(data)
    except (msgpack.UnpackException, ValueError):
        return None


def _tensors(keys: Keys, array: StoredArray) -> Iterator[T5xTensor]:
    place = place_of(keys)
    where = _ARRAYS + ".".join(keys)
    if place is None:
        yield T5xTensor(TensorInfo(where, array.shape, array.dtype), array)
    else:
        yield from tensors_of(array, place, where)

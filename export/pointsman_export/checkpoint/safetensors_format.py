"""Where the tensors of a ``.safetensors`` file lie.

Format (https://huggingface.co/docs/safetensors): the header's length as 8 little-endian bytes, a JSON header
``{name: {"dtype", "shape", "data_offsets": [begin, end]}}`` whose offsets count from its end, then the data.
"""

import json
from pathlib import Path
from typing import Any

from pointsman.errors import CheckpointError
from pointsman_export.checkpoint.stored import StoredTensor, TensorInfo

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_LENGTH_BYTES = 8
_LFS_POINTER = b"version "  # the first 8 bytes of "version https://git-lfs.github.com/spec/v1"


def tensors_in(path: Path) -> dict[str, StoredTensor]:
    """List the tensors of a ``.safetensors`` file without reading them.

    Raises:
        CheckpointError: The file is not safetensors, is truncated or damaged.
    """
    header, start = _header(path)
    header.pop("__metadata__", None)
    tensors = {name: _tensor(name, entry, path, start) for name, entry in header.items()}
    _check_covered(path, start, [entry["data_offsets"] for entry in header.values()])
    return tensors


def _check_covered(path: Path, start: int, places: list[list[int]]) -> None:
    """The format demands that tensors fill the file from the header to its end, each byte once."""
    end, size = 0, path.stat().st_size
    for begin, after in sorted(places):
        if begin != end:
            what = "overlap" if begin < end else "leave a gap"
            raise CheckpointError(f"{path} has tensors that {what} at byte {start + begin}; fetch the file again")
        end = after
    if start + end > size:
        raise CheckpointError(f"{path} is truncated: it has {size} bytes of {start + end}; fetch the file again")
    if start + end < size:
        raise CheckpointError(f"{path} has {size - start - end} bytes after its last tensor; fetch the file again")


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The parsed header, and the position where the data starts."""
    with path.open("rb") as file:
        length_bytes = file.read(_LENGTH_BYTES)
        if length_bytes == _LFS_POINTER:
            raise CheckpointError(f"{path} is a Git LFS pointer, not the weights; run `git lfs pull`")
        length = int.from_bytes(length_bytes, "little")
        start = _LENGTH_BYTES + length
        if len(length_bytes) < _LENGTH_BYTES or start > path.stat().st_size:
            raise CheckpointError(f"{path} is truncated or not a safetensors file; fetch the file again")
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} has a damaged safetensors header; fetch the file again") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} has a damaged safetensors header; fetch the file again")
    return header, start


def _tensor(name: str, entry: object, path: Path, start: int) -> StoredTensor:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [begin, end]} if _are_counts(*shape, begin, end):
            info = TensorInfo(name, tuple(shape), _DTYPES.get(dtype, dtype))
            if begin <= end and (dtype not in _DTYPES or end - begin == info.nbytes):
                return StoredTensor(info, path, start + begin)
    raise CheckpointError(f"{path} has a damaged header entry for {name}; fetch the file again")


def _are_counts(*numbers: object) -> bool:
    return all(type(number) is int and number >= 0 for number in numbers)

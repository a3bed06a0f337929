"""Where the tensors of a ``.safetensors`` file lie.

Format (https://huggingface.co/docs/safetensors): the header's length as 8 little-endian bytes, a JSON header
``{name: {"dtype", "shape", "data_offsets": [begin, end]}}`` whose offsets count from its end, then the data.
"""

import json
from pathlib import Path
from typing import Any

from pointsman.errors import CheckpointError
from pointsman_export.checkpoint.stored import StoredTensor, TensorInfo, refuse_dtypes

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_LENGTH_BYTES = 8
_LFS_POINTER = b"version "  # the first 8 bytes of "version https://git-lfs.github.com/spec/v1"


def tensors_in(path: Path) -> dict[str, StoredTensor]:
    """List the tensors of a ``.safetensors`` file without reading them.

    Raises:
        CheckpointError: The file is not safetensors, is truncated, or holds a dtype that is not supported.
    """
    header, start = _header(path)
    header.pop("__metadata__", None)
    size = path.stat().st_size
    refuse_dtypes(path, {name: dtype for name, entry in header.items() if (dtype := _dtype(entry)) not in _DTYPES})
    tensors = {name: _tensor(name, entry, path, start) for name, entry in header.items()}
    end = max((tensor.offset + tensor.span for tensor in tensors.values()), default=start)
    if end > size:
        raise CheckpointError(f"{path} is truncated: it has {size} bytes of {end}; fetch the file again")
    return tensors


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
    except ValueError as error:
        raise CheckpointError(f"{path} has a damaged safetensors header; fetch the file again") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} has a damaged safetensors header; fetch the file again")
    return header, start


def _dtype(entry: object) -> str:
    return str(entry.get("dtype")) if isinstance(entry, dict) else "unknown"


def _tensor(name: str, entry: dict[str, Any], path: Path, start: int) -> StoredTensor:
    info = None
    try:
        begin, end = (int(offset) for offset in entry["data_offsets"])
        info = TensorInfo(name, tuple(int(size) for size in entry["shape"]), _DTYPES[entry["dtype"]])
    except (KeyError, TypeError, ValueError):
        begin = end = 0
    if info is None or begin < 0 or end - begin != info.nbytes:
        raise CheckpointError(f"{path} has a damaged header entry for {name}; fetch the file again")
    return StoredTensor(info, path, start + begin)

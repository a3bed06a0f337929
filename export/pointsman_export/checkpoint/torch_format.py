"""Where the tensors of a PyTorch ``.bin`` file lie.

``torch.load(map_location="meta")`` unpickles names, shapes and strides without reading any data, and notes on
each storage where it starts in the file. Tied tensors are views of one storage and share that start.
"""

import pickle
from pathlib import Path
from typing import Any

import torch

from pointsman.bundle.names import LFS_POINTER
from pointsman.errors import CheckpointError
from pointsman_export.checkpoint.stored import StoredTensor, TensorInfo

_ZIP_MAGIC = b"PK"


def tensors_in(path: Path) -> dict[str, StoredTensor]:
    """List the tensors of a ``.bin`` file without reading them.

    Raises:
        CheckpointError: The file is not a PyTorch archive of tensors, or is truncated or damaged.
    """
    _check_archive(path)
    return {name: _stored(name, tensor, path) for name, tensor in _state(path).items()}


def _check_archive(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(len(LFS_POINTER))
    if start == LFS_POINTER:
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights; run `git lfs pull`")
    if not start.startswith(_ZIP_MAGIC):
        raise CheckpointError(
            f"{path} is not a zip archive as torch.save has written since PyTorch 1.6; load and save it again"
        )


def _state(path: Path) -> dict[str, torch.Tensor]:
    try:
        state: Any = torch.load(path, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} holds something else than tensors; save its state_dict alone") from error
    except Exception as error:  # what a damaged pickle makes of itself has no common base
        raise CheckpointError(f"{path} is truncated or damaged; fetch the file again") from error
    if not isinstance(state, dict) or not all(map(_is_named_tensor, state.items())):
        raise CheckpointError(f"{path} holds something else than tensors; save its state_dict alone")
    return state


def _is_named_tensor(item: tuple[object, object]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], torch.Tensor)


def _stored(name: str, tensor: torch.Tensor, path: Path) -> StoredTensor:
    start = tensor.untyped_storage()._checkpoint_offset if tensor.layout is torch.strided else None
    if start is None:
        raise CheckpointError(
            f"{path} has no plain values of {name}; save its state_dict with dense tensors on the CPU"
        )
    if start + tensor.untyped_storage().nbytes() > path.stat().st_size:
        raise CheckpointError(f"{path} is truncated or damaged; fetch the file again")
    return StoredTensor(
        info=TensorInfo(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")),
        file=path,
        offset=start + int(tensor.storage_offset()) * tensor.element_size(),
        strides=None if tensor.is_contiguous() else tensor.stride(),
    )

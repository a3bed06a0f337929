"""Slots of arrays in host memory: how many there are, and how gaps between them close.

What is held lies in the first slots, so that a step sees the beginning of each array, and copies nothing.
"""

import math
import mmap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pointsman.bundle import TensorSpec

_LINE: Final = 64  # bytes
_OWN_PAGES: Final = 1 << 20  # bytes
_FEW: Final = 4  # slots, that there are more of at least where there are too few
_PATIENCE: Final = 16
"""Steps. Copying a token's keys and values takes longer than a step takes to pass over it in vain (3 us at the size of
switch-base-8)."""


class Patience:
    """Whether memory has been far too large for so long that copying what is still needed of it costs less."""

    def __init__(self) -> None:
        self._steps = 0

    def ends(self, *, is_large: bool) -> bool:
        """Note a step; whether it is time to give some back."""
        self._steps = self._steps + 1 if is_large else 0
        is_over = self._steps > _PATIENCE
        if is_over:
            self._steps = 0
        return is_over


def gaps_closed(kept: NDArray[np.int64], slots: int) -> tuple[Iterator[tuple[int, int]], NDArray[np.int64]]:
    """How those that are kept come to lie in the first slots: the last of them move to where others were.

    Args:
        kept: int64, rising.
        slots: all that there are.

    Returns:
        what is to be copied, as pairs of target and source; and int64 [slots], the new slot of each that is kept.
    """
    movers = kept[kept >= len(kept)]
    targets = np.setdiff1d(np.arange(len(kept)), kept)
    renamed = np.arange(slots)
    renamed[movers] = targets
    return zip(targets.tolist(), movers.tolist(), strict=True), renamed


def room(slots: int, needed: int) -> int:
    """Of the first requests exactly what is needed, and then somewhat more, so that growing is rare."""
    return needed if needed <= slots or not slots else max(needed, slots + max(slots // 2, _FEW))


def zeros(specs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    """Zeros by name, of the specs' dtypes and axes, whose dynamic ones have these sizes.

    They lie side by side, so that they take few large pages; each begins at a cache line.
    """
    shapes = {spec.name: (spec.shape(sizes), np.dtype(dtype_of(spec))) for spec in specs}
    places, end = {}, 0
    for name, (shape, dtype) in shapes.items():
        places[name] = end
        end += -(-math.prod(shape) * dtype.itemsize // _LINE) * _LINE
    memory = _zeroed(end + _LINE)
    memory = memory[-memory.ctypes.data % _LINE :]
    return {
        name: memory[places[name] : places[name] + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
        for name, (shape, dtype) in shapes.items()
    }


def _zeroed(size: int) -> NDArray[np.uint8]:
    """Bytes that go back to the system when nobody has them any more, where there are many.

    What an allocator is given back it may keep, and what lies in between keeps it from giving more back.
    """
    if size < _OWN_PAGES or not hasattr(mmap, "MAP_ANONYMOUS"):
        return np.zeros(size, np.uint8)
    try:
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"{size} bytes are not there") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8)


def dtype_of(spec: TensorSpec) -> str:
    """NumPy's for a tensor; it has no bfloat16."""
    return "uint16" if spec.dtype == "bfloat16" else spec.dtype

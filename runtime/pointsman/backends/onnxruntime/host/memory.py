"""Memory of arrays that come and go with requests, and are taken again by those that come next.

Pages that a process touches for the first time take longer than all that a step does with them: 0.1 ms a megabyte, and
2.5 ms on a virtual machine whose host has to find them first.
"""

import math
import mmap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import RLock
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pointsman.bundle import TensorSpec

_LINE: Final = 64  # bytes
_PAGE: Final = 2 << 20  # bytes of a large one
_OWN_PAGES: Final = 1 << 20  # bytes
_MOST_SPARE, _SHARE = 128 * 10**6, 10  # bytes; of weights, one in so many
_WIDEST: Final = 2  # times what is needed


@dataclass(frozen=True, slots=True, eq=False)
class Arrays:
    """Some that lie side by side, so that they take few large pages.

    Attributes:
        by_name: each begins at a cache line.
        memory: that of all, uint8.
    """

    by_name: Mapping[str, NDArray[Any]]
    memory: NDArray[np.uint8]

    @property
    def bytes(self) -> int:
        """Of all that is taken for them."""
        return len(self.memory)


NONE: Final = Arrays({}, np.zeros(0, np.uint8))


class Memory:
    """Gives arrays memory, and keeps some of what is given back. May be used by several threads, and in finalizers."""

    def __init__(self, most_spare: int) -> None:
        """Have none.

        Args:
            most_spare: bytes that are kept at most.
        """
        # Re-entrant: a finalizer may give memory back in the middle of what a thread does under the lock.
        self._most_spare, self._lock = most_spare, RLock()
        self._spare: list[NDArray[np.uint8]] = []

    def arrays(self, specs: Sequence[TensorSpec], sizes: Mapping[str, int], *, zeroed: bool = False) -> Arrays:
        """Arrays of the specs' names, dtypes and axes, whose dynamic ones have these sizes.

        Args:
            specs: of each.
            sizes: by axis.
            zeroed: whether they are zeros; else they hold anything, such as NaN.

        Raises:
            MemoryError: there is too little.
        """
        shapes = {spec.name: (spec.shape(sizes), np.dtype(_dtype(spec))) for spec in specs}
        places, end = {}, 0
        for name, (shape, dtype) in shapes.items():
            places[name] = end
            end += -(-math.prod(shape) * dtype.itemsize // _LINE) * _LINE
        memory = self._taken(end + _LINE, zeroed=zeroed)
        aligned = memory[-memory.ctypes.data % _LINE :]
        by_name = {
            name: aligned[places[name] : places[name] + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
            for name, (shape, dtype) in shapes.items()
        }
        return Arrays(by_name, memory)

    def give_back(self, arrays: Arrays) -> None:
        """Let others have it; whoever gives it back reads and writes the arrays no more."""
        if not _OWN_PAGES <= len(arrays.memory) <= self._most_spare:
            return
        with self._lock:
            self._spare.append(arrays.memory)
            while sum(map(len, self._spare)) > self._most_spare:
                del self._spare[:1]

    def _taken(self, size: int, *, zeroed: bool) -> NDArray[np.uint8]:
        if size < _OWN_PAGES:
            return np.zeros(size, np.uint8)
        with self._lock:
            fitting = [one for one in self._spare if size <= len(one) <= _WIDEST * size]
            found = min(fitting, key=len, default=None)
            if found is not None:
                self._spare = [one for one in self._spare if one is not found]
        if found is None:
            return _new_pages(-(-size // _PAGE) * _PAGE)
        if zeroed:
            found[:size] = 0
        return found


def most_spare(weights: int) -> int:
    """Bytes that are kept for a model of so many: little beside what it takes anyway."""
    return min(_MOST_SPARE, weights // _SHARE)


def _new_pages(size: int) -> NDArray[np.uint8]:
    """Zeros that go back to the system when nobody has them any more.

    What an allocator is given back it may keep, and what lies in between keeps it from giving more back.
    """
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return np.zeros(size, np.uint8)
    try:
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"{size} bytes are not there") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8)


def _dtype(spec: TensorSpec) -> str:
    """NumPy's for a tensor; it has no bfloat16."""
    return "uint16" if spec.dtype == "bfloat16" else spec.dtype

"""What the rows of many requests have in host memory: what was encoded for their inputs, and their caches.

Both lie in slots from the first on, so that a step over some rows sees the beginning of each array, and copies nothing.
"""

import math
import mmap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pointsman.backends.cache_rows import Move
from pointsman.bundle import TensorSpec, cache_capacity, names

_LINE: Final = 64  # bytes
_OWN_PAGES: Final = 1 << 20  # bytes
_SOURCE_MULTIPLE: Final = 32  # tokens
_FEW: Final = 4  # slots, that there are more of at least where there are too few
_PATIENCE: Final = 16
"""Steps. Copying a token's keys and values takes longer than a step takes to pass over it in vain (3 us at the size of
switch-base-8)."""


class EncodedInputs:
    """Masks, and cross-attention keys and values, of inputs that are padded to the longest of them, or somewhat more.

    What is held is copied when there are more inputs, or a longer one, than there is room for; room grows by a share of
    what there is, so inputs that come one by one are not all copied each time.

    Attributes:
        mask: int64 [slots, source].
        arrays: by name, with the axes of their specs.
    """

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        """Have none.

        Args:
            specs: the encoder's outputs.
        """
        self._specs = specs
        self._source_axes = {spec.name: spec.axes.index(names.SOURCE) for spec in specs}
        self.clear()

    def clear(self) -> None:
        """Give all memory back."""
        self._lengths = np.zeros(0, np.int64)
        self._written = np.zeros(0, np.int64)  # tokens of each slot behind which there are zeros
        self._patience = _Patience()
        self.mask = np.zeros((0, 0), np.int64)
        self.arrays: dict[str, NDArray[Any]] = {}

    def __len__(self) -> int:
        """How many inputs there are."""
        return len(self._lengths)

    @property
    def bytes(self) -> int:
        """Of memory that is held."""
        return self.mask.nbytes + sum(array.nbytes for array in self.arrays.values())

    def make_room(self, inputs: int, longest: int) -> None:
        """Have slots for so many inputs more, of so many tokens at most."""
        slots, source = self.mask.shape
        needed, longest = len(self) + inputs, int(self._lengths.max(initial=longest))
        if needed <= slots and longest <= source:
            return
        if longest > source:
            source = _longer(source, longest)
        elif 2 * longest <= source:  # more inputs must not have what only one of those before them needed
            source = longest
        self._lay_out(_room(slots, needed), source)

    def targets(self, first: int, inputs: int, source: int) -> dict[str, NDArray[Any]]:
        """Where the encoder is to write what it gives for some new inputs; `put` is to be called then.

        Args:
            first: their place among those that there is room for since `make_room`.
            inputs: how many.
            source: tokens of each, padding included.

        Returns:
            arrays by name: their slots, where these have just that many tokens, and others.
        """
        slots = slice(len(self) + first, len(self) + first + inputs)
        if source == self.mask.shape[1]:
            self._written[slots] = source
            return {name: array[slots] for name, array in self.arrays.items()}
        sizes = {names.BATCH: inputs, names.SOURCE: source}
        return {spec.name: np.empty(spec.shape(sizes), _dtype(spec)) for spec in self._specs}

    def put(self, first: int, mask: NDArray[np.int64], encoded: Mapping[str, NDArray[Any]]) -> None:
        """Have new inputs in their slots.

        Args:
            first: as of `targets`.
            mask: int64 [inputs, source].
            encoded: what `targets` gave, written.
        """
        inputs, source = mask.shape
        slots = slice(len(self) + first, len(self) + first + inputs)
        self.mask[slots, :source], self.mask[slots, source:] = mask, 0
        if source < self.mask.shape[1]:
            self._write(slots, encoded, source)

    def arrived(self, lengths: NDArray[np.int64]) -> None:
        """Count inputs among the others, all that `put` was called for.

        Args:
            lengths: int64 [inputs], tokens of each.
        """
        self._lengths = np.concatenate([self._lengths, lengths])

    def keep(self, kept: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give back the other slots; the last inputs move there.

        Args:
            kept: int64, the slots that are kept, rising.

        Returns:
            int64 [len(self) before], the new slot of each.
        """
        moves, renamed = gaps_closed(kept, len(self))
        for target, place in moves:
            source = self._lengths[target] = int(self._lengths[place])
            self.mask[target] = self.mask[place]
            self._write(slice(target, target + 1), self._of(place, source), source)
        self._lengths = self._lengths[: len(kept)]
        return renamed

    def tidy(self) -> bool:
        """Give back what has not been needed for many steps; to be called once a step.

        Returns:
            whether what is held lies elsewhere now.
        """
        slots, source = self.mask.shape
        longest = int(self._lengths.max())
        if not self._patience.ends(is_large=2 * longest <= source or 4 * len(self) <= slots):
            return False
        self._lay_out(len(self), longest)
        return True

    def _of(self, slot: int, source: int) -> dict[str, NDArray[Any]]:
        """So many tokens of an input, [1, ..., source]."""
        return {
            name: array[slot : slot + 1][_behind(self._source_axes[name], slice(source))]
            for name, array in self.arrays.items()
        }

    def _write(self, slots: slice, encoded: Mapping[str, NDArray[Any]], source: int) -> None:
        """Fill slots with so many tokens; behind them come zeros, since all that a product reads must be finite."""
        behind = slice(source, int(self._written[slots].max()))
        self._written[slots] = np.maximum(self._written[slots], source)  # should this be broken off
        for name, values in encoded.items():
            of_slots, axis = self.arrays[name][slots], self._source_axes[name]
            _copy(of_slots[_behind(axis, slice(source))], values)
            of_slots[_behind(axis, behind)] = 0
        self._written[slots] = source

    def _lay_out(self, slots: int, source: int) -> None:
        """Have so many slots of so many tokens."""
        lengths = self._lengths.tolist()
        before = [self._of(slot, length) for slot, length in enumerate(lengths)]
        mask, least = self.mask, min(source, self.mask.shape[1])
        arrays = _zeros(self._specs, {names.BATCH: slots, names.SOURCE: source})
        self.arrays, self.mask, self._written = arrays, np.zeros((slots, source), np.int64), np.zeros(slots, np.int64)
        self.mask[: len(self), :least] = mask[: len(self), :least]
        for slot, (encoded, length) in enumerate(zip(before, lengths, strict=True)):
            self._write(slice(slot, slot + 1), encoded, length)


class RowCaches:
    """Self-attention caches with room for a little more than the longest row holds: attention passes over all of it.

    Attributes:
        lengths: int64 [rows], tokens that each row holds.
        capacity: tokens that each has room for.
        arrays: by name, [slots, heads, capacity, d_kv].
    """

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        """Have none.

        Args:
            specs: the decoder's caches.
        """
        self._specs = specs
        self.clear()

    def clear(self) -> None:
        """Give all memory back."""
        self.lengths = np.zeros(0, np.int64)
        self.arrays: dict[str, NDArray[Any]] = {}
        self._slots = self.capacity = 0
        self._written = 0  # slots that are no longer zeros
        self._patience = _Patience()

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.lengths)

    @property
    def bytes(self) -> int:
        """Of memory that is held."""
        return sum(array.nbytes for array in self.arrays.values())

    def add(self, rows: int) -> NDArray[np.int64]:
        """Add rows without tokens, and give their slots."""
        first, total = len(self), len(self) + rows
        if total > self._slots:
            self._lay_out(_room(self._slots, total), max(self.capacity, cache_capacity(1)))
        for array in self.arrays.values():
            array[first : min(total, self._written)] = 0  # what is not read must be finite all the same
        self._written = max(self._written, total)
        self.lengths = np.concatenate([self.lengths, np.zeros(rows, np.int64)])
        return np.arange(first, total)

    def move(self, moves: Sequence[Move], length: int) -> None:
        """Copy rows that hold so many tokens."""
        for target, source, first in moves:
            for array in self.arrays.values():
                array[target, :, first:length] = array[source, :, first:length]

    def keep(self, kept: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give back the other slots; arguments and result are those of `EncodedInputs.keep`."""
        moves, renamed = gaps_closed(kept, len(self))
        for target, source in moves:
            length = self.lengths[target] = int(self.lengths[source])
            self.move([Move(target, source, 0)], length)
        self.lengths = self.lengths[: len(kept)]
        return renamed

    def make_room(self) -> bool:
        """Have room for a step, which adds a token to each row, and give back what has not been needed for many.

        Returns:
            whether the caches lie elsewhere now.
        """
        longest, are_few = int(self.lengths.max()), 4 * len(self) <= self._slots
        capacity = cache_capacity(longest + 1)
        is_full = longest >= self.capacity
        if not is_full and not self._patience.ends(is_large=2 * capacity <= self.capacity or are_few):
            return False
        self._lay_out(len(self) if are_few or not is_full else self._slots, capacity)
        return True

    def _lay_out(self, slots: int, capacity: int) -> None:
        """Have so many slots of so many tokens."""
        held, longest = len(self), int(self.lengths.max(initial=0))
        arrays = _zeros(self._specs, {names.ROWS: slots, names.CAPACITY: capacity})
        for name, array in self.arrays.items():
            arrays[name][:held, :, :longest] = array[:held, :, :longest]
        self.arrays, self._slots, self.capacity, self._written = arrays, slots, capacity, held


class _Patience:
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


def _room(slots: int, needed: int) -> int:
    """Of the first requests exactly what is needed, and then somewhat more, so that growing is rare."""
    return needed if needed <= slots or not slots else max(needed, slots + max(slots // 2, _FEW))


def _longer(source: int, longest: int) -> int:
    """The same of tokens, and less of it: attention passes over all of them in each step."""
    if not source:
        return longest
    return -(-max(longest, source + source // 4) // _SOURCE_MULTIPLE) * _SOURCE_MULTIPLE


def _copy(target: NDArray[Any], values: NDArray[Any]) -> None:
    target[...] = values


def _zeros(specs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    """Zeros by name, side by side, so that they lie in few large pages; each begins at a cache line."""
    shapes = {spec.name: (spec.shape(sizes), np.dtype(_dtype(spec))) for spec in specs}
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


def _behind(axis: int, part: slice) -> tuple[slice, ...]:
    return (*(slice(None) for _ in range(axis)), part)


def _dtype(spec: TensorSpec) -> str:
    return "uint16" if spec.dtype == "bfloat16" else spec.dtype

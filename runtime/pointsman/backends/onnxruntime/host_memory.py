"""What the rows of many requests have in host memory: what was encoded for their inputs, and their caches.

Both lie in slots from the first on, so that a step over some rows sees the beginning of each array, and copies nothing.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pointsman.backends.cache_rows import Move
from pointsman.bundle import TensorSpec, cache_capacity, names

_LINE: Final = 64  # bytes


class EncodedInputs:
    """Masks, and cross-attention keys and values, of inputs that are padded to the longest of them.

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
        self.mask = np.zeros((0, 0), np.int64)
        self.arrays: dict[str, NDArray[Any]] = {}

    def __len__(self) -> int:
        """How many inputs there are."""
        return len(self._lengths)

    @property
    def bytes(self) -> int:
        """Of memory that is held."""
        return self.mask.nbytes + sum(array.nbytes for array in self.arrays.values())

    def reserve(self, mask: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Add inputs, and say where what is encoded for them goes.

        Args:
            mask: int64 [inputs, source], theirs.

        Returns:
            the arrays to be written, [inputs, ..., source], before `arrived` is called.
        """
        first, inputs, source = len(self), *mask.shape
        longest = max(source, self.mask.shape[1])
        if longest > self.mask.shape[1] or first + inputs > len(self.mask):
            self._lay_out(_room(len(self.mask), first + inputs), longest)
        self.mask[first : first + inputs, :source], self.mask[first : first + inputs, source:] = mask, 0
        return {
            spec.name: self.arrays[spec.name][first : first + inputs]
            if source == longest
            else np.empty(spec.shape({names.BATCH: inputs, names.SOURCE: source}), _dtype(spec))
            for spec in self._specs
        }

    def arrived(self, encoded: dict[str, NDArray[Any]]) -> None:
        """Count inputs among the others, when what `reserve` gave has been written.

        What was written elsewhere is copied; behind it come zeros, since all that a product reads must be finite.
        """
        first, inputs = len(self), len(next(iter(encoded.values())))
        for name, values in encoded.items():
            slots = self.arrays[name][first : first + inputs]
            axis, source = self._source_axes[name], values.shape[self._source_axes[name]]
            if source < slots.shape[axis]:
                slots[_behind(axis, slice(source))] = values
                slots[_behind(axis, slice(source, None))] = 0
        self._lengths = np.concatenate([self._lengths, np.full(inputs, source)])

    def keep(self, kept: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give back the other slots; the last inputs move there.

        Args:
            kept: int64, the slots that are kept, rising.

        Returns:
            int64 [len(self) before], the new slot of each.
        """
        moves, renamed = gaps_closed(kept, len(self))
        for target, source in moves:
            self.mask[target] = self.mask[source]
            for array in self.arrays.values():
                array[target] = array[source]
            self._lengths[target] = self._lengths[source]
        self._lengths = self._lengths[: len(kept)]
        longest = int(self._lengths.max())
        if 2 * longest <= self.mask.shape[1] or 4 * len(self) <= len(self.mask):
            self._lay_out(len(self), longest)
        return renamed

    def _lay_out(self, slots: int, source: int) -> None:
        """Have so many slots of so many tokens."""
        held, least = len(self), min(source, self.mask.shape[1])
        mask, self.mask = self.mask, np.zeros((slots, source), np.int64)
        self.mask[:held, :least] = mask[:held, :least]
        arrays = _zeros(self._specs, {names.BATCH: slots, names.SOURCE: source})
        for name, array in self.arrays.items():
            part = _behind(self._source_axes[name], slice(least))
            arrays[name][:held][part] = array[:held][part]
        self.arrays = arrays


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
        capacity = cache_capacity(int(self.lengths.max()) + 1)
        if 2 * capacity <= self.capacity or 4 * len(self) <= self._slots:
            self._lay_out(len(self), capacity)
        return renamed

    def make_room(self) -> bool:
        """Have room for one token more in each row; whether the caches lie elsewhere now."""
        longest = int(self.lengths.max())
        if longest < self.capacity:
            return False
        self._lay_out(self._slots, cache_capacity(longest + 1))
        return True

    def _lay_out(self, slots: int, capacity: int) -> None:
        """Have so many slots of so many tokens."""
        held, longest = len(self), int(self.lengths.max(initial=0))
        arrays = _zeros(self._specs, {names.ROWS: slots, names.CAPACITY: capacity})
        for name, array in self.arrays.items():
            arrays[name][:held, :, :longest] = array[:held, :, :longest]
        self.arrays, self._slots, self.capacity, self._written = arrays, slots, capacity, held


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
    return needed if needed <= slots or not slots else max(needed, slots + slots // 2)


def _zeros(specs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    """Zeros by name, side by side, so that they lie in few large pages; each begins at a cache line."""
    shapes = {spec.name: (spec.shape(sizes), np.dtype(_dtype(spec))) for spec in specs}
    places, end = {}, 0
    for name, (shape, dtype) in shapes.items():
        places[name] = end
        end += -(-math.prod(shape) * dtype.itemsize // _LINE) * _LINE
    memory = np.zeros(end + _LINE, np.uint8)
    memory = memory[-memory.ctypes.data % _LINE :]
    return {
        name: memory[places[name] : places[name] + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
        for name, (shape, dtype) in shapes.items()
    }


def _behind(axis: int, part: slice) -> tuple[slice, ...]:
    return (*(slice(None) for _ in range(axis)), part)


def _dtype(spec: TensorSpec) -> str:
    return "uint16" if spec.dtype == "bfloat16" else spec.dtype

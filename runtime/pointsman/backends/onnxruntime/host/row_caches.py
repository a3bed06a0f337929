"""Self-attention caches of the rows of many requests in host memory."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointsman.backends.cache_rows import Move
from pointsman.backends.onnxruntime.host.memory import NONE, Arrays, Memory
from pointsman.backends.onnxruntime.host.slots import Patience, gaps_closed, room
from pointsman.bundle import TensorSpec, cache_capacity, names


class RowCaches:
    """Self-attention caches with room for a little more than the longest row holds: attention passes over all of it.

    Attributes:
        lengths: int64 [rows], tokens that each row holds.
        capacity: tokens that each has room for.
    """

    def __init__(self, specs: Sequence[TensorSpec], memory: Memory) -> None:
        """Have none.

        Args:
            specs: the decoder's caches.
            memory: where they are to lie.
        """
        self._specs, self._memory, self._held = specs, memory, NONE
        self.clear()

    def clear(self) -> None:
        """Give all memory back."""
        self.lengths = np.zeros(0, np.int64)
        self._hold(NONE)
        self._slots = self.capacity = 0
        self._written = 0  # slots that are no longer zeros
        self._patience = Patience()

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.lengths)

    @property
    def bytes(self) -> int:
        """Of memory that is held."""
        return self._held.bytes

    @property
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """By name, [slots, heads, capacity, d_kv]."""
        return self._held.by_name

    def add(self, rows: int) -> NDArray[np.int64]:
        """Add rows without tokens, and give their slots."""
        first, total = len(self), len(self) + rows
        if total > self._slots:
            self._lay_out(room(self._slots, total), max(self.capacity, cache_capacity(1)))
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
        """Give back the other slots; the last rows move there.

        Args:
            kept: int64, the slots that are kept, rising.

        Returns:
            int64 [len(self) before], the new slot of each.
        """
        moves, renamed = gaps_closed(kept, len(self))
        for target, source in moves:
            left, length = int(self.lengths[target]), int(self.lengths[source])
            self.lengths[target] = length
            self.move([Move(target, source, 0)], length)
            for array in self.arrays.values():
                array[target, :, length:left] = 0  # what is not read must be finite all the same
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
        arrays = self._memory.arrays(self._specs, {names.ROWS: slots, names.CAPACITY: capacity}, zeroed=True)
        for name, array in self.arrays.items():
            arrays.by_name[name][:held, :, :longest] = array[:held, :, :longest]
        self._hold(arrays)
        self._slots, self.capacity, self._written = slots, capacity, held

    def _hold(self, arrays: Arrays) -> None:
        before, self._held = self._held, arrays
        self._memory.give_back(before)

"""Where each row's keys and values lie in a cache, and what is copied when beams change parents: as little as can be.

A row whose parent has no other child stays where its parent was. Only a further child of the same parent is copied, to
a place that nobody continues, and of it only what differs from what lies there: beams of an input mostly begin alike.
"""

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

_Scalar = TypeVar("_Scalar", bound=np.generic)


class Move(NamedTuple):
    """A copy from one row of a cache to another, of the tokens from `first` on."""

    target: int
    source: int
    first: int


class CacheRows:
    """The places of a request's rows in its cache; at first each row's is its own number.

    Rows of an input lie together, and stay within their input's places.
    """

    def __init__(self, rows: int) -> None:
        self._own = np.arange(rows)
        self._places = self._own
        self._alike = np.zeros((0, 0), np.int32)  # tokens at the beginning that are the same in two places

    def follow(self, beam_rows: NDArray[np.int64], length: int) -> list[Move]:
        """Let every row continue another, or itself.

        Args:
            beam_rows: int64 [rows], the row that each continues, of the same input.
            length: tokens of each row in the cache.

        Returns:
            what is to be copied, in any order: no target is a source.
        """
        if np.array_equal(beam_rows, self._own):
            return []
        parents = self._places[beam_rows]
        first_child = np.full_like(self._own, -1)
        first_child[parents[::-1]] = self._own[::-1]
        free, further = np.flatnonzero(first_child < 0), np.flatnonzero(first_child[parents] != self._own)
        sources = parents[further]
        self._places = parents
        self._places[further] = free
        return [
            self._move(target, source, length) for target, source in zip(free.tolist(), sources.tolist(), strict=True)
        ]

    def keep(self, kept: NDArray[np.int64]) -> NDArray[np.int64]:
        """Go on with the rows of some inputs; rows and places are counted anew.

        Args:
            kept: int64, these rows, rising: all of each input.

        Returns:
            int64 [kept], the places before of those that stay, rising.
        """
        places, moved = self._places[kept], self._places is not self._own
        staying = np.sort(places)
        self._own = np.arange(len(kept))
        self._places = np.searchsorted(staying, places) if moved else self._own
        if self._alike.size:
            self._alike = self._alike[np.ix_(staying, staying)]
        return staying

    def _move(self, target: int, source: int, length: int) -> Move:
        if not self._alike.size:
            self._alike = np.zeros((len(self._own), len(self._own)), np.int32)
        first = int(self._alike[target, source])
        self._alike[source, source] = length
        self._alike[target] = self._alike[source]
        self._alike[:, target] = self._alike[:, source]
        return Move(target, source, first)

    def to_places(self, values: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """Values of each row, [rows, ...], in the order of the places."""
        if self._places is self._own:
            return values
        ordered = np.empty_like(values)
        ordered[self._places] = values
        return ordered

    def from_places(self, values: NDArray[_Scalar], into: NDArray[_Scalar] | None = None) -> NDArray[_Scalar]:
        """Values of each place, [rows, ...], in the order of the rows.

        Args:
            values: themselves the result, where that order is theirs.
            into: of the same shape, to take the result otherwise; None for new memory.
        """
        if self._places is self._own:
            return values
        return np.take(values, self._places, axis=0, out=into, mode="clip")  # other modes copy twice

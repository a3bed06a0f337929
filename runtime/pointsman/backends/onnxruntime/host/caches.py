"""A request's self-attention cache, bound as input and output of a step: the engine writes into it in place."""

from collections.abc import Sequence
from typing import Any

import onnxruntime

from pointsman.backends.cache_rows import Move
from pointsman.bundle import Graph, cache_capacity, empty_cache


class HostCache:
    """A cache in host memory, with room for a little more than it holds: attention passes over all of it.

    Growing copies it, once in so many steps as `CAPACITY_MULTIPLE` says.
    """

    def __init__(self, decoder: Graph, rows: int) -> None:
        """Make it, without tokens.

        Args:
            decoder: whose.
            rows: of the decoder.
        """
        self._decoder, self._rows = decoder, rows
        self._arrays = empty_cache(decoder.caches, rows, cache_capacity(1))

    @property
    def capacity(self) -> int:
        """Tokens that each row has room for."""
        return int(next(iter(self._arrays.values())).shape[2])

    def bind(self, binding: Any) -> None:  # noqa: ANN401 - untyped engine
        """Bind it to a step."""
        self._values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in self._arrays.values()]
        _, *presents = self._decoder.outputs
        for past, present, value in zip(self._decoder.caches, presents, self._values, strict=True):
            binding.bind_ortvalue_input(past.name, value)
            binding.bind_ortvalue_output(present.name, value)

    def prepared(self, moves: Sequence[Move], length: int, positions: int) -> bool:
        """Copy rows, and have room for a step.

        Args:
            moves: which rows.
            length: tokens of each row that it holds.
            positions: tokens that the step adds.

        Returns:
            whether it lies elsewhere now.
        """
        for target, source, first in moves:
            for array in self._arrays.values():
                array[target, :, first:length] = array[source, :, first:length]
        if length + positions <= self.capacity:
            return False
        grown = empty_cache(self._decoder.caches, self._rows, cache_capacity(length + positions))
        for name, array in grown.items():
            array[:, :, :length] = self._arrays[name][:, :, :length]
        self._arrays = grown
        return True

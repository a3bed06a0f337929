"""A request's self-attention cache, bound as input and output of a step: the engine writes into it in place."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnxruntime

from pointsman.backends.cache_rows import Move
from pointsman.backends.onnxruntime.gathering import Gathering
from pointsman.bundle import Graph, cache_capacity, empty_cache, names

_LEAST_BUCKET: Final = 64  # tokens


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

    def bind(self, binding: Any) -> None:  # noqa: ANN401 - untyped engine
        """Bind it to a step."""
        self._values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in self._arrays.values()]
        _bind(binding, self._decoder, self._values)

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
        capacity = next(iter(self._arrays.values())).shape[2]
        if length + positions <= capacity:
            return False
        grown = empty_cache(self._decoder.caches, self._rows, cache_capacity(length + positions))
        for name, array in grown.items():
            array[:, :, :length] = self._arrays[name][:, :, :length]
        self._arrays = grown
        return True


class DeviceCache:
    """A cache on a device, which has from the beginning the room that the request may need."""

    def __init__(self, decoder: Graph, rows: int, room: int, gathering: Gathering) -> None:
        """Make it, without tokens.

        Args:
            decoder: whose.
            rows: of the decoder.
            room: tokens that will be fed to each, at most.
            gathering: on the device.
        """
        self._decoder, self._gathering = decoder, gathering
        (shape,) = {spec.shape({names.ROWS: 1, names.CAPACITY: _bucket(room)}) for spec in decoder.caches}
        row = gathering.zeros(shape)
        self._own = np.arange(rows)
        self._values = [gathering.run(row, np.zeros_like(self._own)) for _ in decoder.caches]

    def bind(self, binding: Any) -> None:  # noqa: ANN401 - untyped engine
        """See `HostCache.bind`."""
        _bind(binding, self._decoder, self._values)

    def prepared(self, moves: Sequence[Move], length: int, positions: int) -> bool:  # noqa: ARG002
        """See `HostCache.prepared`."""
        if not moves:
            return False
        rows = self._own.copy()
        for target, source, _ in moves:
            rows[target] = source
        self._values = [self._gathering.run(value, rows) for value in self._values]
        return True


def _bucket(tokens: int) -> int:
    """The capacity of a cache that does not grow: a power of two, so that few shapes occur."""
    return max(1 << (tokens - 1).bit_length(), _LEAST_BUCKET)


def _bind(binding: Any, decoder: Graph, values: Sequence[Any]) -> None:  # noqa: ANN401 - untyped engine
    """Bind each cache to the input and to the output that it is."""
    _, *presents = decoder.outputs
    for past, present, value in zip(decoder.caches, presents, values, strict=True):
        binding.bind_ortvalue_input(past.name, value)
        binding.bind_ortvalue_output(present.name, value)

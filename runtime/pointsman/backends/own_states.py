"""Requests on engines that give each of them a state of its own."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pointsman.backends.base import Source
from pointsman.decoding import DecodingState, OneAfterAnother, OwnState


class _Encodes(Protocol):
    def encode(
        self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64], *, rows: int, room: int
    ) -> DecodingState: ...


class OwnStates(OneAfterAnother):
    """A `RequestStepper` that encodes and steps one request after another."""

    shares_steps, pads_inputs = False, True

    def __init__(self, backend: _Encodes) -> None:
        self._backend, self.bytes = backend, 0  # the engine's own memory is not counted

    def encode(self, sources: Sequence[Source], pad_id: int) -> list[OwnState]:
        """See `RequestStepper.encode`."""
        return [OwnState(self._state(source), pad_id) for source in sources]

    def _state(self, source: Source) -> DecodingState:
        ids, mask = source.input_ids, source.attention_mask
        return self._backend.encode(ids, mask, rows=source.rows, room=source.room)

"""What the runtime asks of an inference engine; what a request's steps are, `decoding.step` says."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pointsman.decoding import DecodingState

ASK_FOR_LESS = "ask for fewer inputs or beams at a time, or use a smaller precision"  # where memory does not suffice


class Backend(Protocol):
    """An engine that holds a variant's two graphs.

    Attributes:
        engine: the engine and its version, as `inspect` shows it.
        device: where it runs: `cpu` or `cuda`.
        most_positions: tokens of a row that it takes at once, where it has a limit; more are fed one after another.
    """

    engine: str
    device: str
    most_positions: int | None

    def encode(
        self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64], *, rows: int, room: int
    ) -> DecodingState:
        """Run the encoder.

        Args:
            input_ids: [batch, source].
            attention_mask: [batch, source], 1 for a token and 0 for padding.
            rows: decoder rows that will be stepped, a multiple of `batch`.
            room: tokens that will be fed to each of them, at most.
        """
        ...

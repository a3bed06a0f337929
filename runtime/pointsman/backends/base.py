"""What the decode loop needs of an inference engine."""

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pointsman.selection import Selection

ASK_FOR_LESS = "ask for fewer inputs or beams at a time, or use a smaller precision"  # where memory does not suffice


class DecodingState(Protocol):
    """One request's encoder output and growing cache, wherever the engine keeps them."""

    def step(self, token_ids: NDArray[np.int64], beam_rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Feed tokens to every row.

        Args:
            token_ids: [rows, positions]; rows is the same in all steps of a request.
            beam_rows: [rows], the row of the cache so far that each row continues.

        Returns:
            logits of the token after each position, [rows, positions, vocab]. They are only read, and only until the
            next step.
        """
        ...


@runtime_checkable
class SelectingState(DecodingState, Protocol):
    """A request whose engine can find the best tokens where it computes logits.

    Attributes:
        most_selected: how many best tokens of a row can be asked for.
    """

    most_selected: int

    def select(
        self, token_ids: NDArray[np.int64], beam_rows: NDArray[np.int64], named_ids: NDArray[np.int64], count: int
    ) -> Selection:
        """Feed one token to every row.

        Args:
            token_ids: [rows].
            beam_rows: [rows], as of `step`.
            named_ids: [rows, named], tokens whose logits are wanted whatever they are; some may be repeated.
            count: how many best tokens of each row are wanted beside them; at most `most_selected`.
        """
        ...


class Backend(Protocol):
    """An engine that holds a variant's two graphs.

    Attributes:
        engine: the engine and its version, as `inspect` shows it.
        device: where it runs: `cpu` or `cuda`.
    """

    engine: str
    device: str

    def encode(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64], *, rows: int) -> DecodingState:
        """Run the encoder.

        Args:
            input_ids: [batch, source].
            attention_mask: [batch, source], 1 for a token and 0 for padding.
            rows: decoder rows that will be stepped, a multiple of `batch`.
        """
        ...

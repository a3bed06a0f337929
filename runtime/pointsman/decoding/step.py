"""What decoding asks of an engine: the one seam between the two.

An engine gives a request's `DecodingState`; each step feeds tokens to its rows and gives the logits of the tokens that
follow, or, where the engine can select them, of those tokens that can matter.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


class DecodingState(Protocol):
    """The rows of one request: what was encoded for them and their growing caches, wherever the engine keeps them.

    The rows of an input lie together: input 0's beams (or samples), then input 1's, and so on.
    """

    def step(self, token_ids: NDArray[np.int64], beam_rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Extend every row.

        Args:
            token_ids: `[rows, positions]`, the tokens to feed to each row, the decoder start token first of all. There
                are equally many rows in all steps.
            beam_rows: `[rows]`, row r continues the cache of row `beam_rows[r]`; in the first step each row its own.

        Returns:
            Logits of the token after each position, `[rows, positions, vocabulary]`. They are only read, and only
            until the next step.
        """
        ...


@dataclass(frozen=True, slots=True)
class Selection:
    """The next token's logits, of those tokens that can matter.

    Attributes:
        named_logits: float32 `[rows, named]`, of the tokens that were asked for by name.
        best_ids: int64 `[rows, count]`, the tokens of highest logits among all others; of equal ones the lower ids.
        best_logits: float32 `[rows, count]`, theirs.
        log_total: float32 `[rows]`, log of the summed exponentials of the logits of all tokens not named; NaN where
            one of them is NaN or infinite.
    """

    named_logits: NDArray[np.float32]
    best_ids: NDArray[np.int64]
    best_logits: NDArray[np.float32]
    log_total: NDArray[np.float32]


@runtime_checkable
class SelectingState(DecodingState, Protocol):
    """Rows whose engine can also find the best tokens itself, so that logits need not leave its device.

    Attributes:
        vocabulary: How many tokens there are.
        most_selected: How many best tokens of a row can be asked for.
    """

    vocabulary: int
    most_selected: int

    def select(
        self, token_ids: NDArray[np.int64], beam_rows: NDArray[np.int64], named_ids: NDArray[np.int64], count: int
    ) -> Selection:
        """Extend every row by one token.

        Args:
            token_ids: `[rows, 1]`, as of `step`.
            beam_rows: `[rows]`, as of `step`.
            named_ids: `[rows, named]`, tokens whose logits are wanted whatever they are; some may be repeated.
            count: How many best tokens of each row are wanted beside them; at most `most_selected`.
        """
        ...

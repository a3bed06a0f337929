"""The one thing that decoding asks of an engine: logits for the next token of every row."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class StepFunction(Protocol):
    """One decoder step over a fixed number of rows.

    The rows of an input lie together: input 0's beams (or samples), then input 1's, and so on.
    """

    def __call__(self, token_ids: NDArray[np.int64], source_rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Extend every row by one token.

        Args:
            token_ids: `[rows]`, the token to feed to each row; on the first call, the decoder start token.
            source_rows: `[rows]`, row r continues the cache of row `source_rows[r]`; on the first call each
                row its own, with an empty cache.

        Returns:
            Logits of the next token, `[rows, vocabulary]`. They are only read, and only until the next call.
        """
        ...

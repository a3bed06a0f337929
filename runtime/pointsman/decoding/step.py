"""What decoding asks of an engine: the logits of the next token of every row, or those of them that can matter."""

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pointsman.selection import Selection


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


@runtime_checkable
class SelectingStepFunction(StepFunction, Protocol):
    """A step whose engine can also find the best tokens itself, so that logits need not leave its device.

    Attributes:
        vocabulary: How many tokens there are.
        most_selected: How many best tokens of a row can be asked for.
    """

    @property
    def vocabulary(self) -> int: ...  # noqa: D102 - an attribute

    @property
    def most_selected(self) -> int: ...  # noqa: D102 - an attribute

    def select(
        self, token_ids: NDArray[np.int64], source_rows: NDArray[np.int64], named_ids: NDArray[np.int64], count: int
    ) -> Selection:
        """Extend every row by one token.

        Args:
            token_ids: As of the call.
            source_rows: As of the call.
            named_ids: `[rows, named]`, tokens whose logits are wanted whatever they are; some may be repeated.
            count: How many best tokens of each row are wanted beside them; at most `most_selected`.
        """
        ...

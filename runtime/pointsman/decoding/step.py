"""What decoding asks of an engine: the one seam between the two.

A step feeds tokens to rows, and gives the logits of the tokens that follow, or, where the engine can select them, of
those tokens that can matter. A `Stepper` steps the rows of several requests at once, which begin and end independently.
A `DecodingState` is the rows of one request, and what an engine offers that knows no more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

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
            Logits of the token after each position, `[rows, positions, vocabulary]`. Until the next step they are the
            caller's, who may overwrite them.
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


@runtime_checkable
class StepsAheadOfHost(Protocol):
    """Rows whose engine may begin a step before it is told what to feed.

    Attributes:
        begun_ids: int64 `[rows]`, what it has fed to each; None where it has begun none. Rows that nobody needs any
            more are best fed the same, or the step is done again.
    """

    @property
    def begun_ids(self) -> NDArray[np.int64] | None:
        """See above."""
        ...


class Selects(NamedTuple):
    """What an engine can select.

    Attributes:
        vocabulary: How many tokens there are.
        most: How many best tokens of a row can be asked for.
    """

    vocabulary: int
    most: int


class Wanted(NamedTuple):
    """What is to be selected; see `SelectingState.select`."""

    named_ids: NDArray[np.int64]
    best: int


@dataclass(frozen=True, slots=True)
class Feed:
    """What one request's rows are fed in a step.

    Attributes:
        token_ids: int64 `[rows]`, a token for each row; the decoder start token first of all.
        parents: int64 `[rows]`, row r continues row `parents[r]`, of the same input; in the first step each itself.
        kept: int64, the rows of the step before that go on, rising; the others are given back, all of an input at a
            time. Rows and parents are counted among those kept. None where all go on.
        wanted: What to select; None where all logits are asked for.
    """

    token_ids: NDArray[np.int64]
    parents: NDArray[np.int64]
    kept: NDArray[np.int64] | None = None
    wanted: Wanted | None = None


Answer = NDArray[np.float32] | Selection
"""Of one request's rows: logits `[rows, vocabulary]`, or what was selected of them. Until the next step logits are the
search's, which may overwrite them."""


class Rows(Protocol):
    """The rows of one request, wherever an engine keeps them; the rows of an input lie together.

    Attributes:
        selects: What can be selected of their logits; None where nothing can.
    """

    @property
    def selects(self) -> Selects | None:
        """See above."""
        ...


AnyRows = TypeVar("AnyRows", bound=Rows)
_Rows_contra = TypeVar("_Rows_contra", bound=Rows, contravariant=True)


class Stepper(Protocol[_Rows_contra]):
    """Steps the rows of several requests at once."""

    def step(self, feeds: Sequence[tuple[_Rows_contra, Feed]]) -> Sequence[Answer]:
        """Extend every row of all requests by one token.

        Args:
            feeds: All requests that have rows, in any order, and what theirs are fed.

        Returns:
            An answer for each.
        """
        ...

    def release(self, rows: _Rows_contra) -> None:
        """Take back a request's rows; it is stepped no more."""
        ...

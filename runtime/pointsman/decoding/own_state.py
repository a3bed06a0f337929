"""Engines that know of one request at a time: each request has a state of its own, and these are stepped in turn."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pointsman.decoding.step import (
    Answer,
    DecodingState,
    Feed,
    SelectingState,
    Selection,
    Selects,
    StepsAheadOfHost,
    Wanted,
)


class OwnState:
    """The `Rows` of a request in a state whose number of rows stays as it is: those given back are fed anything.

    Attributes:
        selects: See `Rows`.
    """

    def __init__(self, state: DecodingState, pad_id: int) -> None:
        """Take a state without steps so far.

        Args:
            state: Of the request's rows.
            pad_id: Fed to rows that have been given back, where the engine has not fed them yet.
        """
        self._state, self._pad_id = state, pad_id
        self._selecting = state if isinstance(state, SelectingState) else None
        self.selects: Selects | None = None
        if self._selecting is not None:
            self.selects = Selects(self._selecting.vocabulary, self._selecting.most_selected)
        self._own = np.arange(0)
        self._kept: NDArray[np.int64] | None = None  # rows of the state that the request has kept; None for all

    def step(self, feed: Feed) -> Answer:
        """Extend the request's rows; see `Stepper.step`."""
        if feed.kept is not None:
            self._kept = feed.kept if self._kept is None else self._kept[feed.kept]
        if self._kept is None:
            self._own = np.arange(len(feed.token_ids))
            return self._answer(feed.token_ids, feed.parents, feed.wanted)
        return self._padded(self._kept, feed)

    def _padded(self, kept: NDArray[np.int64], feed: Feed) -> Answer:
        begun = self._state.begun_ids if isinstance(self._state, StepsAheadOfHost) else None
        token_ids = np.full(len(self._own), self._pad_id, np.int64) if begun is None else begun.copy()
        token_ids[kept] = feed.token_ids
        parents = self._own.copy()
        parents[kept] = kept[feed.parents]
        if feed.wanted is None:
            answer = self._answer(token_ids, parents, None)
        else:
            named_ids = np.full((len(self._own), feed.wanted.named_ids.shape[1]), self._pad_id, np.int64)
            named_ids[kept] = feed.wanted.named_ids
            answer = self._answer(token_ids, parents, Wanted(named_ids, feed.wanted.best))
        return _rows_of(answer, kept)

    def _answer(self, token_ids: NDArray[np.int64], parents: NDArray[np.int64], wanted: Wanted | None) -> Answer:
        if wanted is None:
            return self._state.step(token_ids[:, None], parents)[:, -1]
        assert self._selecting is not None
        return self._selecting.select(token_ids[:, None], parents, *wanted)


class OneAfterAnother:
    """A `Stepper` of requests with states of their own."""

    def step(self, feeds: Sequence[tuple[OwnState, Feed]]) -> list[Answer]:
        """See `Stepper.step`."""
        return [rows.step(feed) for rows, feed in feeds]

    def release(self, rows: OwnState) -> None:
        """See `Stepper.release`; the state goes with the last who holds it."""


def _rows_of(answer: Answer, rows: NDArray[np.int64]) -> Answer:
    if isinstance(answer, Selection):
        named, best = answer.named_logits[rows], answer.best_ids[rows]
        return Selection(named, best, answer.best_logits[rows], answer.log_total[rows])
    return answer[rows]

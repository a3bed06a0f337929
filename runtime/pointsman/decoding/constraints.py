"""What well-formed output is, as a rule that decoding can follow.

Its state is read from the prefix at every step, because beams change places between steps.
"""

from collections.abc import Collection, Sequence
from copy import copy
from itertools import pairwise
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from pointsman.decoding.generation import SpecialTokens
from pointsman.decoding.options import DecodingOptions
from pointsman.errors import OptionsError

_Count = TypeVar("_Count", int, NDArray[np.int64])


class SentinelConstraint:
    """Output that fills every blank: `sentinel tokens+ sentinel tokens+ ... (eos | closing sentinel)`.

    Each of an input's sentinels comes once, in the order of the input, each followed by at least one ordinary token
    that is not white space. After the last span either eos or the closing sentinel (the one that follows the input's
    last in the vocabulary's order, with which T5's training targets end) completes the sequence. Pad and other
    sentinels never occur. When `max_new_tokens` draws near, what is still missing is forced, so that every output is
    complete; one that ends for want of room lacks only the eos.
    """

    def __init__(
        self,
        sentinels: Sequence[Sequence[int]],
        *,
        all_sentinels: Sequence[int],
        tokens: SpecialTokens,
        options: DecodingOptions,
        forbidden: Collection[int] = (),
        white_space: Collection[int] = (),
    ) -> None:
        """Prepare for one batch.

        Args:
            sentinels: For each input, the ids of its sentinels in the order in which they occur: at least one, each
                once, and no more than `check_room` allows.
            all_sentinels: Every sentinel id of the vocabulary, `<extra_id_0>` first.
            tokens: The special tokens.
            options: `max_new_tokens` and `min_new_tokens` are obeyed.
            forbidden: Other ids that no span may contain, such as those that stand for no text.
            white_space: Ids that do not make a span by themselves.
        """
        self._options = options
        self._eos_ids = np.array(tokens.eos_ids, np.int64)
        self._blanks = np.array([len(ids) for ids in sentinels], np.int64)
        self._expected = _expected(sentinels, all_sentinels, tokens.eos_ids[0])
        known = max((*all_sentinels, *white_space)) + 2  # the last stands for all greater ids
        self._is_sentinel, self._is_text = np.zeros(known, np.bool_), np.ones(known, np.bool_)
        self._is_sentinel[list(all_sentinels)] = True
        self._is_text[[*all_sentinels, *white_space]] = False
        structural = {*all_sentinels, tokens.pad_id, *tokens.eos_ids, tokens.decoder_start_id, *forbidden}
        self._structural = np.array(sorted(structural), np.int64)
        self._white_space = np.array(sorted(set(white_space) - structural), np.int64)
        self._named = np.concatenate([self._structural, self._white_space])

    def of_inputs(self, inputs: NDArray[np.int64]) -> Self:
        """The same for some of the inputs."""
        fewer = copy(self)
        fewer._blanks, fewer._expected = self._blanks[inputs], self._expected[inputs]
        return fewer

    @property
    def ending_tokens(self) -> int:
        """Each eos, and the closing sentinel."""
        return len(self._eos_ids) + 1

    def ended(self, prefixes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows `[rows]` have an eos or their closing sentinel."""
        has_eos = (prefixes[:, 1:, None] == self._eos_ids).any(axis=(1, 2))
        ended: NDArray[np.bool_] = has_eos | (self._opened(prefixes) > self._blanks[self._inputs(prefixes)])
        return ended

    def named(self, prefixes: NDArray[np.int64]) -> NDArray[np.int64]:
        """All that is not text; tokens of text may come or may not, all alike."""
        return np.broadcast_to(self._named, (len(prefixes), len(self._named)))

    def __call__(self, prefixes: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Leave the ordinary tokens and the structure that may come next; complete rows stay as they are."""
        rows = np.flatnonzero(~self.ended(prefixes))
        next_ids, may_come, takes_text, takes_space = self._possible(prefixes[rows], self._inputs(prefixes)[rows])
        kept = np.where(may_come, scores[rows[:, None], next_ids], -np.inf)
        scores[rows[:, None], self._structural] = -np.inf
        scores[rows[~takes_text]] = -np.inf
        scores[rows[~takes_space, None], self._white_space] = -np.inf
        scores[rows[:, None], next_ids] = kept
        return scores

    def _possible(
        self, prefixes: NDArray[np.int64], inputs: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """For incomplete rows: the next sentinel and each eos `[rows, any]`, whether each may come, text, and space."""
        opened, is_empty = self._opened(prefixes), self._is_empty(prefixes)
        missing = self._blanks[inputs] - opened
        generated = prefixes.shape[1] - 1
        # An empty span always has room for text, as none is begun later than this allows.
        room_left = _room_left(self._options.max_new_tokens, generated, missing)
        sentinel_may_come = ~is_empty & ((missing > 0) | (generated >= self._options.min_new_tokens))
        ends = np.broadcast_to(self._eos_ids, (len(opened), len(self._eos_ids)))
        next_ids = np.column_stack([self._expected[inputs, opened], ends])
        end_may_come = np.broadcast_to((sentinel_may_come & (missing == 0))[:, None], ends.shape)
        may_come = np.column_stack([sentinel_may_come, end_may_come])
        return next_ids, may_come, (opened > 0) & (room_left >= 0), room_left >= is_empty

    def _opened(self, prefixes: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many sentinels each row has, the closing one included."""
        opened: NDArray[np.int64] = self._is_sentinel[self._clipped(prefixes)].sum(axis=1)
        return opened

    def _is_empty(self, prefixes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows have had no text since their last sentinel; none of those without a sentinel."""
        ids, places = self._clipped(prefixes), np.arange(prefixes.shape[1])
        last_text = (self._is_text[ids] * places).max(axis=1)
        is_empty: NDArray[np.bool_] = last_text < (self._is_sentinel[ids] * places).max(axis=1)
        return is_empty

    def _clipped(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.minimum(ids, len(self._is_sentinel) - 1)

    def _inputs(self, prefixes: NDArray[np.int64]) -> NDArray[np.int64]:
        """The input of each row."""
        return np.arange(len(prefixes)) // (len(prefixes) // len(self._blanks))


def is_forced(max_new_tokens: int, generated: int, missing: int) -> bool:
    """Whether a sentinel that follows text had to come, as one token more would have taken the room of what is missing.

    The one after the last span never has to: nothing is missing then, and where no room is left nothing comes at all.

    Args:
        max_new_tokens: Most tokens of the output.
        generated: Tokens before the sentinel.
        missing: Blanks of which no sentinel is among these.
    """
    return _room_left(max_new_tokens, generated, missing) < 0


def _room_left(max_new_tokens: int, generated: int, missing: _Count) -> _Count:
    """Tokens that may come after the next if that is text: two are kept for each blank that is missing."""
    return max_new_tokens - generated - 1 - 2 * missing


def check_room(blanks: int, max_new_tokens: int, number: int) -> None:
    """Refuse an input that cannot be filled completely.

    Args:
        blanks: How many it has.
        max_new_tokens: Most tokens of its output.
        number: The input's.

    Raises:
        OptionsError: There are fewer than two tokens for each blank.
    """
    if max_new_tokens < 2 * blanks:
        raise OptionsError(
            f"max_new_tokens {max_new_tokens} is too few for the {blanks} blanks of input {number}; "
            f"use at least {2 * blanks}, two for each blank"
        )


def _expected(sentinels: Sequence[Sequence[int]], all_sentinels: Sequence[int], eos_id: int) -> NDArray[np.int64]:
    """The sentinel that comes next after so many, `[batch, 1 + most blanks]`; last the closing one, or else eos."""
    following = dict(pairwise(all_sentinels))
    table = np.full((len(sentinels), 1 + max(map(len, sentinels))), eos_id, np.int64)
    for row, ids in zip(table, sentinels, strict=True):
        closing = following.get(ids[-1], eos_id)
        row[: len(ids) + 1] = [*ids, eos_id if closing in ids else closing]
    return table

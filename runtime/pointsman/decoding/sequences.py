"""Greedy search and sampling: sequences that are extended by one token a step, the likeliest or a drawn one."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pointsman.decoding.generation import FinishReason, Generation, TokenEvent, length_normalized
from pointsman.decoding.next_scores import NextScores, Scorer, scorer_of
from pointsman.decoding.options import DecodingOptions
from pointsman.decoding.rules import Rules
from pointsman.decoding.sampling import Sampler
from pointsman.decoding.step import Answer, Feed, Selects

_Chooser = Callable[[NDArray[np.float32], NDArray[np.int64]], NDArray[np.int64]]


class Sequences:
    """All sequences of a request; see `Search`. Those of an input give their rows back when all of them have ended."""

    def __init__(self, batch_size: int, options: DecodingOptions, rules: Rules, selects: Selects | None) -> None:
        self._options, self._rules, self._selects = options, rules, selects
        self._each = options.num_return_sequences
        self._inputs = np.arange(batch_size)  # that are not done
        self._sampler = Sampler(options, batch_size, rules.first_input) if options.do_sample else None
        self._choose: _Chooser = self._sampler or _likeliest
        self._scorer = self._scorer_of(rules)
        shape = (batch_size * self._each, options.max_new_tokens)
        self._token_ids = np.full((shape[0], 1 + shape[1]), rules.tokens.pad_id, np.int64)  # decoder start token first
        self._token_ids[:, 0] = rules.tokens.decoder_start_id
        self._logprobs = np.zeros(shape, np.float32)
        self._lengths = np.zeros(shape[0], np.int64)  # generated tokens
        self._ended = np.zeros(shape[0], np.bool_)
        self._length = 0  # of those that have not ended
        self._rows = np.arange(shape[0])
        self._kept: NDArray[np.int64] | None = None
        self._found: list[list[Generation]] = [[] for _ in range(batch_size)]

    @property
    def done(self) -> bool:
        """See `Search.done`."""
        return not len(self._inputs)

    def generations(self) -> list[list[Generation]]:
        """See `Search.generations`."""
        return self._found

    def feed(self) -> Feed:
        """See `Search.feed`; rows that have ended before the others of their input are fed pad."""
        prefixes = self._prefixes()
        wanted = self._scorer.wanted(prefixes)
        return Feed(np.ascontiguousarray(prefixes[:, -1]), self._rows, self._kept, wanted)

    def advance(self, answer: Answer) -> tuple[TokenEvent, ...]:
        """See `Search.advance`."""
        next_scores = self._scorer.scores(answer, self._prefixes())
        rows = self._rows[~self._ended]
        self._extend(rows, next_scores)
        events = tuple(map(self._event, rows.tolist()))
        self._give_back()
        return events

    def _scorer_of(self, rules: Rules) -> Scorer:
        return scorer_of(self._selects, rules, count=None if self._sampler else 1, normalized=False)

    def _prefixes(self) -> NDArray[np.int64]:
        return self._token_ids[:, : 1 + self._length]

    def _extend(self, rows: NDArray[np.int64], next_scores: NextScores) -> None:
        self._check_possible(next_scores, rows)
        columns = self._choose(next_scores.scores, rows)
        logprobs = next_scores.scores[rows, columns] - next_scores.log_normalizers(rows)
        self._length += 1
        self._token_ids[rows, self._length] = next_scores.tokens(rows, columns)
        self._logprobs[rows, self._length - 1] = logprobs
        self._lengths[rows] = self._length
        self._ended[rows] = self._rules.ended(self._prefixes())[rows]

    def _check_possible(self, next_scores: NextScores, rows: NDArray[np.int64]) -> None:
        scores = next_scores.scores
        of_rows = scores if len(rows) == len(scores) else scores[rows]
        impossible = rows[of_rows.max(axis=1) == -np.inf]
        if len(impossible):
            raise self._rules.no_token_possible(int(self._inputs[impossible[0] // self._each]))

    def _give_back(self) -> None:
        """Take what was found for inputs that are done, and go on without their rows."""
        self._kept = None
        full = self._length == self._options.max_new_tokens
        done = (self._ended | full).reshape(-1, self._each).all(axis=1)
        if not done.any():
            return
        for place in np.flatnonzero(done).tolist():
            first = place * self._each
            self._found[self._inputs[place]] = [self._generation(row) for row in range(first, first + self._each)]
        self._keep(np.flatnonzero(~done))

    def _keep(self, places: NDArray[np.int64]) -> None:
        """Go on with the inputs in these places."""
        kept = (places[:, None] * self._each + np.arange(self._each)).ravel()
        self._kept, self._inputs, self._rows = kept, self._inputs[places], np.arange(len(kept))
        self._token_ids, self._logprobs = self._token_ids[kept], self._logprobs[kept]
        self._lengths, self._ended = self._lengths[kept], self._ended[kept]
        self._rules = self._rules.of_inputs(places)
        self._scorer = self._scorer_of(self._rules)
        if self._sampler:
            self._sampler.keep(kept)

    def _generation(self, row: int) -> Generation:
        """What a row has become."""
        length = int(self._lengths[row])
        logprobs = tuple(self._logprobs[row, :length].tolist())
        return Generation(
            token_ids=tuple(self._token_ids[row, 1 : 1 + length].tolist()),
            score=length_normalized(sum(logprobs), length, self._options.length_penalty),
            finish_reason=self._finish_reason(row) or "length",
            token_logprobs=logprobs,
        )

    def _event(self, row: int) -> TokenEvent:
        """The token that a row was extended by."""
        place, return_index = divmod(row, self._each)
        return TokenEvent(
            input_index=int(self._inputs[place]),
            return_index=return_index,
            token_id=int(self._token_ids[row, self._length]),
            logprob=float(self._logprobs[row, self._length - 1]),
            finish_reason=self._finish_reason(row),
        )

    def _finish_reason(self, row: int) -> FinishReason | None:
        if self._ended[row]:
            return "eos"
        return "length" if self._lengths[row] == self._options.max_new_tokens else None


def _likeliest(scores: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The highest score of each row; of several, the first."""
    likeliest: NDArray[np.int64] = scores.argmax(axis=1)
    return likeliest[rows]

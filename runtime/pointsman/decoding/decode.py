"""Decoding: whole generations, or a stream of tokens, and the loop of greedy search and sampling under both."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from pointsman.decoding.beam_search import beam_search
from pointsman.decoding.generation import FinishReason, Generation, SpecialTokens, TokenEvent, length_normalized
from pointsman.decoding.next_scores import NextScores, scorer_of
from pointsman.decoding.options import DecodingOptions
from pointsman.decoding.rules import Constraint, Rules
from pointsman.decoding.sampling import Sampler
from pointsman.decoding.step import DecodingState
from pointsman.errors import OptionsError

_Chooser = Callable[[NDArray[np.float32], NDArray[np.int64]], NDArray[np.int64]]


def decode(
    state: DecodingState,
    batch_size: int,
    options: DecodingOptions,
    tokens: SpecialTokens,
    *,
    constraint: Constraint | None = None,
    first_input: int = 0,
) -> list[list[Generation]]:
    """Generate sequences for every input of a batch.

    Args:
        state: Of the same number of rows until every input is done: `batch_size * num_beams` for beam search, else
            `batch_size * num_return_sequences`. Rows of one input lie together; finished ones are fed pad.
        batch_size: Number of inputs.
        options: How to decode. `options.constrain` is the caller's to act on, by passing a constraint.
        tokens: The special tokens.
        constraint: Applied after the options' own processors, and asked when a sequence ends.
        first_input: Number that the first input has for the caller: errors name it, and its random streams follow
            from it.

    Returns:
        For each input its `num_return_sequences` generations: beams best first, samples in the order of their
        random streams. Beam search returns fewer where the rules leave fewer possible sequences.

    Raises:
        OptionsError: The rules leave an input no possible token.
        ParityError: The logits are not finite.
    """
    rules = Rules.of(options, tokens, constraint, first_input)
    if options.num_beams > 1:
        return beam_search(state, batch_size, options, rules)
    sequences = _Sequences(state, batch_size, options, rules)
    for _ in sequences.steps():
        pass
    count = options.num_return_sequences
    return [
        [sequences.generation(row) for row in range(first, first + count)] for first in range(0, len(sequences), count)
    ]


def stream(
    state: DecodingState,
    batch_size: int,
    options: DecodingOptions,
    tokens: SpecialTokens,
    *,
    constraint: Constraint | None = None,
) -> Iterator[tuple[TokenEvent, ...]]:
    """Generate greedily or by sampling, one step at a time; arguments are those of `decode`.

    Returns:
        An iterator that runs one step at a time and yields the tokens of the sequences still running.

    Raises:
        OptionsError: `num_beams` is above 1 (at once), or no token is possible (while iterating).
        ParityError: The logits are not finite (while iterating).
    """
    if options.num_beams > 1:
        raise OptionsError(
            f"num_beams {options.num_beams} cannot be streamed, as later tokens may change which beam is best; "
            "use num_beams=1"
        )
    sequences = _Sequences(state, batch_size, options, Rules.of(options, tokens, constraint, first_input=0))
    return (tuple(map(sequences.event, rows.tolist())) for rows in sequences.steps())


class _Sequences:
    """All sequences of a request, extended together by one token a step: the likeliest, or a drawn one."""

    def __init__(self, state: DecodingState, batch_size: int, options: DecodingOptions, rules: Rules) -> None:
        self._options, self._rules = options, rules
        self._own_rows = np.arange(batch_size * options.num_return_sequences)
        self._choose: _Chooser = Sampler(options, batch_size, rules.first_input) if options.do_sample else _likeliest
        self._score = scorer_of(state, rules, count=None if options.do_sample else 1, normalized=False)
        shape = (len(self), options.max_new_tokens)
        self._token_ids = np.full((shape[0], 1 + shape[1]), rules.tokens.pad_id, np.int64)  # decoder start token first
        self._token_ids[:, 0] = rules.tokens.decoder_start_id
        self._logprobs = np.zeros(shape, np.float32)
        self._lengths = np.zeros(shape[0], np.int64)  # generated tokens
        self._ended = np.zeros(shape[0], np.bool_)

    def __len__(self) -> int:
        return len(self._own_rows)

    def steps(self) -> Iterator[NDArray[np.int64]]:
        """Extend until all have ended; after each step, the rows that it extended."""
        rows = self._own_rows
        for length in range(1, 1 + self._options.max_new_tokens):
            self._extend(rows, length)
            yield rows
            rows = rows[~self._ended[rows]]
            if not len(rows):
                return

    def _extend(self, rows: NDArray[np.int64], length: int) -> None:
        prefixes = self._token_ids[:, :length]
        next_scores = self._score(prefixes[:, -1].copy(), self._own_rows, prefixes)
        self._check_possible(next_scores, rows)
        columns = self._choose(next_scores.scores, rows)
        logprobs = next_scores.scores[rows, columns] - next_scores.log_normalizers(rows)
        self._token_ids[rows, length] = next_scores.tokens(rows, columns)
        self._logprobs[rows, length - 1] = logprobs
        self._lengths[rows] = length
        self._ended[rows] = self._rules.ended(self._token_ids[:, : length + 1])[rows]

    def _check_possible(self, next_scores: NextScores, rows: NDArray[np.int64]) -> None:
        scores = next_scores.scores
        of_rows = scores if len(rows) == len(scores) else scores[rows]
        impossible = rows[of_rows.max(axis=1) == -np.inf]
        if len(impossible):
            raise self._rules.no_token_possible(int(impossible[0]) // self._options.num_return_sequences)

    def generation(self, row: int) -> Generation:
        """What a row has become."""
        length = int(self._lengths[row])
        logprobs = tuple(self._logprobs[row, :length].tolist())
        return Generation(
            token_ids=tuple(self._token_ids[row, 1 : 1 + length].tolist()),
            score=length_normalized(sum(logprobs), length, self._options.length_penalty),
            finish_reason=self._finish_reason(row) or "length",
            token_logprobs=logprobs,
        )

    def event(self, row: int) -> TokenEvent:
        """The token that a row was extended by."""
        length = int(self._lengths[row])
        input_index, return_index = divmod(row, self._options.num_return_sequences)
        return TokenEvent(
            input_index=input_index,
            return_index=return_index,
            token_id=int(self._token_ids[row, length]),
            logprob=float(self._logprobs[row, length - 1]),
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

"""Greedy search and sampling: one loop, which tells of each token as soon as it is chosen."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pointsman.decoding.constraints import Constraint
from pointsman.decoding.generation import FinishReason, SpecialTokens, TokenEvent
from pointsman.decoding.next_scores import NextScores, scorer_of
from pointsman.decoding.options import DecodingOptions
from pointsman.decoding.processors import LogitsProcessor
from pointsman.decoding.rules import Rules
from pointsman.decoding.sampling import Sampler
from pointsman.decoding.step import StepFunction
from pointsman.errors import OptionsError

_Chooser = Callable[[NDArray[np.float32], NDArray[np.int64]], NDArray[np.int64]]


def stream(
    step: StepFunction,
    batch_size: int,
    options: DecodingOptions,
    tokens: SpecialTokens,
    *,
    processors: Sequence[LogitsProcessor] = (),
    constraint: Constraint | None = None,
    first_input: int = 0,
) -> Iterator[tuple[TokenEvent, ...]]:
    """Generate greedily or by sampling, one step at a time.

    Args:
        step: Called with `batch_size * num_return_sequences` rows; finished rows feed pad until all are done.
        batch_size: Number of inputs.
        options: With `num_beams=1`.
        tokens: The special tokens.
        processors: Applied after those of the options.
        constraint: Applied last, and asked when a sequence ends.
        first_input: As of `decode`; events count from 0 all the same.

    Returns:
        An iterator that runs one step at a time and yields the tokens of the sequences still running.

    Raises:
        OptionsError: `num_beams` is above 1 (at once), or no token is possible (while iterating).
        ParityError: The step's logits are not finite (while iterating).
    """
    if options.num_beams > 1:
        raise OptionsError(
            f"num_beams {options.num_beams} cannot be streamed, as later tokens may change which beam is best; "
            "use num_beams=1"
        )
    return _steps(step, batch_size, options, Rules.of(options, tokens, processors, constraint, first_input))


def _steps(
    step: StepFunction, batch_size: int, options: DecodingOptions, rules: Rules
) -> Iterator[tuple[TokenEvent, ...]]:
    choose = Sampler(options, batch_size, rules.first_input) if options.do_sample else _likeliest
    score = scorer_of(step, rules, count=None if options.do_sample else 1, normalized=False)
    own_rows = np.arange(batch_size * options.num_return_sequences)
    prefixes = np.full((len(own_rows), 1 + options.max_new_tokens), rules.tokens.pad_id, np.int64)
    prefixes[:, 0] = rules.tokens.decoder_start_id
    running = own_rows
    for length in range(1, 1 + options.max_new_tokens):
        next_scores = score(prefixes[:, length - 1].copy(), own_rows, prefixes[:, :length])
        impossible = _impossible(next_scores, running)
        if len(impossible):
            raise rules.no_token_possible(int(impossible[0]) // options.num_return_sequences)
        chosen, logprobs = _choose(choose, next_scores, running)
        prefixes[running, length] = chosen
        ended = rules.ended(prefixes[:, : length + 1])[running]
        yield _events(running, chosen, logprobs, ended, options, is_last=length == options.max_new_tokens)
        running = running[~ended]
        if not len(running):
            return


def _impossible(next_scores: NextScores, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of `rows` that nothing may follow."""
    scores = next_scores.scores
    of_rows = scores if len(rows) == len(scores) else scores[rows]
    impossible: NDArray[np.int64] = rows[of_rows.max(axis=1) == -np.inf]
    return impossible


def _choose(
    choose: _Chooser, next_scores: NextScores, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """A token and its log-probability for each of `rows`, each `[len(rows)]`."""
    scores = next_scores.scores
    columns = choose(scores, rows)
    return next_scores.tokens(rows, columns), scores[rows, columns] - next_scores.log_normalizers(rows)


def _likeliest(scores: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The highest score of each row; of several, the first."""
    likeliest: NDArray[np.int64] = scores.argmax(axis=1)
    return likeliest[rows]


def _events(
    rows: NDArray[np.int64],
    chosen: NDArray[np.int64],
    logprobs: NDArray[np.float32],
    ended: NDArray[np.bool_],
    options: DecodingOptions,
    *,
    is_last: bool,
) -> tuple[TokenEvent, ...]:
    otherwise: FinishReason | None = "length" if is_last else None
    return tuple(
        TokenEvent(
            input_index=row // options.num_return_sequences,
            return_index=row % options.num_return_sequences,
            token_id=token,
            logprob=logprob,
            finish_reason="eos" if end else otherwise,
        )
        for row, token, logprob, end in zip(
            rows.tolist(), chosen.tolist(), logprobs.tolist(), ended.tolist(), strict=True
        )
    )

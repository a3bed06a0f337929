"""Beam search, result for result that of transformers 5.23.0 (`GenerationMixin._beam_search`).

What is particular to it, and kept here on purpose: the log-softmax comes before the processors; `(1 + endings) x beams`
candidates are looked at, so that `beams` of them can go on; only a candidate among the best `beams` may count as
finished; scores are divided by length only when a hypothesis finishes; and `early_stopping` decides when running beams
can no longer improve on finished ones. Whatever may not be chosen has 1e9 taken off its score, in float32.
"""

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from pointsman.decoding.generation import Generation
from pointsman.decoding.next_scores import NextScores, Scorer, scorer_of
from pointsman.decoding.options import DecodingOptions
from pointsman.decoding.rules import Rules
from pointsman.decoding.scores import along, best_continuations, highest
from pointsman.decoding.step import Answer, Feed, Selects

_NEVER = np.float32(-1e9)


@dataclass(frozen=True, slots=True)
class _Hypotheses:
    """Some sequences of each input, best first."""

    token_ids: NDArray[np.int64]  # [batch, count, 1 + max_new_tokens], decoder start token first, pad behind
    logprobs: NDArray[np.float32]  # [batch, count, max_new_tokens]
    lengths: NDArray[np.int64]  # [batch, count], generated tokens
    scores: NDArray[np.float32]  # [batch, count], summed log-probabilities; once finished, divided by length
    ended: NDArray[np.bool_]  # [batch, count], by the last token
    finished: NDArray[np.bool_]  # [batch, count], by the last token or because no room is left

    def take(self, chosen: NDArray[np.int64]) -> "_Hypotheses":
        """Those at `chosen` `[batch, any]`, in that order."""
        place = np.arange(len(chosen))[:, None], chosen
        return _Hypotheses(
            token_ids=self.token_ids[place],
            logprobs=self.logprobs[place],
            lengths=self.lengths[place],
            scores=self.scores[place],
            ended=self.ended[place],
            finished=self.finished[place],
        )

    def of_inputs(self, places: NDArray[np.int64]) -> "_Hypotheses":
        """Those of some of the inputs."""
        return _Hypotheses(*(getattr(self, field.name)[places] for field in fields(self)))

    def followed_by(self, other: "_Hypotheses") -> "_Hypotheses":
        """These and the others of each input."""
        pairs = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return _Hypotheses(*(np.concatenate(pair, axis=1) for pair in pairs))


class BeamSearch:
    """A search with `num_beams` beams for each input; see `Search`. An input that is done gives its rows back."""

    def __init__(self, batch_size: int, options: DecodingOptions, rules: Rules, selects: Selects | None) -> None:
        self._options, self._rules, self._selects = options, rules, selects
        self._inputs = np.arange(batch_size)  # that are not done
        self._running = _placeholders(batch_size, options, rules)
        self._running.scores[:, 0] = 0  # all beams start alike: only the first counts, or all would find the same
        self._finished = _placeholders(batch_size, options, rules)
        self._improvable = np.ones(batch_size, np.bool_)
        self._parents = np.arange(batch_size * options.num_beams)
        self._kept: NDArray[np.int64] | None = None
        self._length = 0  # generated tokens of each running beam
        self._count = (1 + rules.ending_tokens) * options.num_beams
        self._scorer = self._scorer_of(rules)
        self._found: list[list[Generation]] = [[] for _ in range(batch_size)]

    @property
    def done(self) -> bool:
        """See `Search.done`."""
        return not len(self._inputs)

    def generations(self) -> list[list[Generation]]:
        """See `Search.generations`: of each `num_return_sequences`, or as many as the rules leave, best first."""
        return self._found

    def feed(self) -> Feed:
        """See `Search.feed`."""
        prefixes = self._prefixes()
        wanted = self._scorer.wanted(prefixes)
        return Feed(np.ascontiguousarray(prefixes[:, -1]), self._parents, self._kept, wanted)

    def advance(self, answer: Answer) -> tuple[()]:
        """See `Search.advance`."""
        next_scores = self._scorer.scores(answer, self._prefixes())
        self._length += 1
        candidates, beams = _candidates(self._running, next_scores, self._count, self._length, self._rules)
        self._finished = _with_newly_finished(self._finished, candidates, self._improvable, self._options)
        self._running, self._parents = _continued(candidates, beams, self._options.num_beams)
        self._improvable &= _could_improve(self._running, self._finished, self._length, self._options)
        full = self._finished.finished.all(axis=1) & (self._options.early_stopping is True)
        self._give_back(full | ~self._improvable | candidates.finished.all(axis=1))
        return ()

    def _scorer_of(self, rules: Rules) -> Scorer:
        return scorer_of(self._selects, rules, count=self._count, normalized=True)

    def _prefixes(self) -> NDArray[np.int64]:
        """Those of all rows, `[rows, length]`."""
        return self._running.token_ids[:, :, : 1 + self._length].reshape(-1, 1 + self._length)

    def _give_back(self, done: NDArray[np.bool_]) -> None:
        """Take what was found for inputs that are done, and go on without their rows."""
        self._kept = None
        if not done.any():
            return
        for place in np.flatnonzero(done).tolist():
            number = int(self._inputs[place])
            self._found[number] = _generations(self._finished, place, number, self._options, self._rules)
        self._keep(np.flatnonzero(~done))

    def _keep(self, places: NDArray[np.int64]) -> None:
        """Go on with the inputs in these places."""
        kept = (places[:, None] * self._options.num_beams + np.arange(self._options.num_beams)).ravel()
        self._kept, self._inputs = kept, self._inputs[places]
        self._parents = np.searchsorted(kept, self._parents[kept])
        self._running, self._finished = self._running.of_inputs(places), self._finished.of_inputs(places)
        self._improvable = self._improvable[places]
        self._rules = self._rules.of_inputs(places)
        self._scorer = self._scorer_of(self._rules)


def _placeholders(batch_size: int, options: DecodingOptions, rules: Rules) -> _Hypotheses:
    """No tokens yet, and a score that any hypothesis beats."""
    shape = (batch_size, options.num_beams)
    token_ids = np.full((*shape, 1 + options.max_new_tokens), rules.tokens.pad_id, np.int64)
    token_ids[:, :, 0] = rules.tokens.decoder_start_id
    return _Hypotheses(
        token_ids=token_ids,
        logprobs=np.zeros((*shape, options.max_new_tokens), np.float32),
        lengths=np.zeros(shape, np.int64),
        scores=np.full(shape, _NEVER),
        ended=np.zeros(shape, np.bool_),
        finished=np.zeros(shape, np.bool_),
    )


def _candidates(
    running: _Hypotheses, next_scores: NextScores, count: int, length: int, rules: Rules
) -> tuple[_Hypotheses, NDArray[np.int64]]:
    """The best continuations of the running beams by one token, and the beam that each continues `[batch, count]`."""
    batch, num_beams, room = running.token_ids.shape
    log_probs = next_scores.scores.reshape(batch, num_beams, -1)
    scores, beams, columns = best_continuations(log_probs, running.scores, count)
    inputs = np.arange(batch)[:, None]
    token_ids, logprobs = running.token_ids[inputs, beams], running.logprobs[inputs, beams]
    token_ids[:, :, length] = next_scores.tokens(num_beams * inputs + beams, columns)
    logprobs[:, :, length - 1] = log_probs[inputs, beams, columns]
    ended = rules.ended(token_ids[:, :, : length + 1].reshape(-1, length + 1)).reshape(batch, -1)
    finished = ended | (length + 1 == room)
    return _Hypotheses(token_ids, logprobs, np.full_like(beams, length), scores, ended, finished), beams


def _with_newly_finished(
    finished: _Hypotheses, candidates: _Hypotheses, improvable: NDArray[np.bool_], options: DecodingOptions
) -> _Hypotheses:
    """The best `num_beams` of those finished before and those that finish now."""
    just_finished = candidates.finished & (np.arange(candidates.finished.shape[1]) < options.num_beams)
    if not just_finished.any() and candidates.scores.max() <= 0:
        return finished  # what has not finished is never better than a placeholder, and comes behind it
    closed = ~improvable | (finished.finished.all(axis=1) & (options.early_stopping is True))
    scores = candidates.scores / candidates.lengths[0, 0].item() ** options.length_penalty
    scores += _never_if(closed)[:, None]
    scores += _never_if(~just_finished)
    merged = finished.followed_by(replace(candidates, scores=scores, finished=just_finished))
    return merged.take(highest(merged.scores, options.num_beams))


def _continued(
    candidates: _Hypotheses, beams: NDArray[np.int64], num_beams: int
) -> tuple[_Hypotheses, NDArray[np.int64]]:
    """The best unfinished candidates, and the row of the cache `[batch * num_beams]` that each continues."""
    scores = candidates.scores + _never_if(candidates.finished)
    chosen = highest(scores, num_beams)
    running = replace(candidates, scores=scores).take(chosen)
    first_rows = num_beams * np.arange(len(beams))[:, None]
    return running, (first_rows + along(beams, chosen)).ravel()


def _could_improve(
    running: _Hypotheses, finished: _Hypotheses, length: int, options: DecodingOptions
) -> NDArray[np.bool_]:
    """Whether an input's best running beam may still beat its worst finished one `[batch]`.

    Log-probabilities only fall, so the sum so far bounds the final one; what length to divide it by is a guess:
    the present one, or with `early_stopping="never"` and a positive penalty the longest possible.
    """
    to_the_end = options.early_stopping == "never" and options.length_penalty > 0
    divisor = (options.max_new_tokens if to_the_end else length) ** options.length_penalty
    best_running = running.scores[:, 0] / divisor
    worst_finished = np.where(finished.finished.all(axis=1), finished.scores.min(axis=1), _NEVER)
    improvable: NDArray[np.bool_] = best_running > worst_finished
    return improvable


def _never_if(condition: NDArray[np.bool_]) -> NDArray[np.float32]:
    """What to add to a score so that it is never chosen where the condition holds."""
    return np.where(condition, _NEVER, np.float32(0))


def _generations(
    finished: _Hypotheses, index: int, number: int, options: DecodingOptions, rules: Rules
) -> list[Generation]:
    """The best finished hypotheses of one input, without placeholders and what grew from impossible beams."""
    divisors = np.maximum(finished.lengths[index], 1).astype(np.float32) ** np.float32(options.length_penalty)
    possible = finished.finished[index] & (finished.scores[index] * divisors > _NEVER / 2)
    if not possible.any():
        raise rules.no_token_possible(number)
    ranks = np.flatnonzero(possible)[: options.num_return_sequences]
    return [_generation(finished, index, rank) for rank in ranks.tolist()]


def _generation(finished: _Hypotheses, index: int, rank: int) -> Generation:
    length = int(finished.lengths[index, rank])
    return Generation(
        token_ids=tuple(finished.token_ids[index, rank, 1 : 1 + length].tolist()),
        score=float(finished.scores[index, rank]),
        finish_reason="eos" if finished.ended[index, rank] else "length",
        token_logprobs=tuple(finished.logprobs[index, rank, :length].tolist()),
    )

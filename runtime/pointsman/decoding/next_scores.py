"""Scores of the next token after the rules, over the whole vocabulary or over the tokens that can still be chosen.

Where an engine selects, few tokens come to the host: those that a rule may change, by name, and the best of the
others. The rules then see a row in which all other tokens are impossible. That gives the same best tokens as the whole
row, since rules treat the tokens that they do not name alike: they leave them, or make all of them impossible.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pointsman.decoding.rules import Rules
from pointsman.decoding.scores import checked_logits, log_normalizers, log_softmax
from pointsman.decoding.step import SelectingStepFunction, StepFunction
from pointsman.selection import Selection

Ids = NDArray[np.int64]
Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class NextScores:
    """Scores of candidates for each row's next token.

    Attributes:
        scores: `[rows, columns]`; `-inf` for what may not come.
        token_ids: `[rows, columns]`, rising, the token of each column; None where it is the column's number.
        named: `[rows, columns]`, the columns of named tokens; None where every token has a column.
        log_others: `[rows]`, log of the summed exponentials of the scores of all tokens not named.
    """

    scores: Scores
    token_ids: Ids | None = None
    named: NDArray[np.bool_] | None = None
    log_others: Scores | None = None

    def tokens(self, rows: Ids, columns: Ids) -> Ids:
        """The tokens of columns."""
        return columns if self.token_ids is None else self.token_ids[rows, columns]

    def log_normalizers(self, rows: Ids) -> Scores:
        """Log of the summed exponentials of all scores of each of `rows`, `[len(rows)]`."""
        if self.named is None or self.log_others is None:
            return log_normalizers(self.scores if len(rows) == len(self.scores) else self.scores[rows])
        return _log_sum(self.scores[rows], self.named[rows], self.log_others[rows])


Scorer = Callable[[Ids, Ids, Ids], NextScores]
"""From the tokens fed `[rows]`, the rows they continue `[rows]`, and the prefixes `[rows, length]` that they end."""


def scorer_of(step: StepFunction, rules: Rules, *, count: int | None, normalized: bool) -> Scorer:
    """How to get the scores of next tokens from a step.

    Args:
        step: The engine's.
        rules: Applied to what it gives.
        count: How many of each row's best tokens matter; None for all.
        normalized: Whether the rules are applied to log-probabilities instead of logits.
    """
    whole = _Whole(step, rules, normalized)
    if count is None or not isinstance(step, SelectingStepFunction) or count > step.most_selected:
        return whole
    return _Selected(step, whole, count)


@dataclass(frozen=True, slots=True)
class _Whole:
    """Scores of the whole vocabulary."""

    step: StepFunction
    rules: Rules
    normalized: bool

    def __call__(self, fed: Ids, source_rows: Ids, prefixes: Ids) -> NextScores:
        logits = checked_logits(self.step(fed, source_rows), position=prefixes.shape[1])
        if self.normalized:
            return NextScores(self.rules.process(prefixes, log_softmax(logits)))
        return NextScores(self.rules.process(prefixes, logits.copy()) if self.rules.processors else logits)


@dataclass(frozen=True, slots=True)
class _Selected:
    """Scores of the tokens that the rules name and of the best others."""

    step: SelectingStepFunction
    whole: _Whole
    count: int

    def __call__(self, fed: Ids, source_rows: Ids, prefixes: Ids) -> NextScores:
        named_ids = self.whole.rules.named(prefixes)
        if named_ids is None:
            return self.whole(fed, source_rows, prefixes)
        selection = self.step.select(fed, source_rows, named_ids, self.count)
        checked_logits(np.column_stack([selection.named_logits, selection.log_total]), position=prefixes.shape[1])
        merged = _merged(named_ids, selection)
        if self.whole.normalized:
            merged = _normalized(merged)
        return self._processed(prefixes, merged) if self.whole.rules.processors else merged

    def _processed(self, prefixes: Ids, before: NextScores) -> NextScores:
        """What the rules leave."""
        assert before.token_ids is not None
        assert before.named is not None
        assert before.log_others is not None
        possible = before.scores > -np.inf  # of a token that has two columns, one is not
        rows = np.arange(len(prefixes))[:, None]
        vocabulary = np.full((len(prefixes), self.step.vocabulary), -np.inf, np.float32)
        vocabulary[np.nonzero(possible)[0], before.token_ids[possible]] = before.scores[possible]
        processed = self.whole.rules.process(prefixes, vocabulary)
        scores = np.where(possible, processed[rows, before.token_ids], -np.inf).astype(np.float32, copy=False)
        others_remain = np.max(scores, axis=1, where=~before.named, initial=-np.inf) > -np.inf
        log_others = np.where(others_remain, before.log_others, -np.inf).astype(np.float32, copy=False)
        return NextScores(scores, before.token_ids, before.named, log_others)


def _merged(named_ids: Ids, selection: Selection) -> NextScores:
    """Named tokens and best others in the order of their ids, so that ties fall as in a whole row."""
    token_ids = np.concatenate([named_ids, selection.best_ids], axis=1)
    order = np.argsort(token_ids, axis=1, kind="stable")
    token_ids = np.take_along_axis(token_ids, order, axis=1)
    logits = np.concatenate([selection.named_logits, selection.best_logits], axis=1)
    scores = np.take_along_axis(logits, order, axis=1)
    scores[:, 1:][token_ids[:, 1:] == token_ids[:, :-1]] = -np.inf  # named twice
    return NextScores(scores, token_ids, order < named_ids.shape[1], selection.log_total)


def _normalized(logits: NextScores) -> NextScores:
    """Logits to log-probabilities."""
    assert logits.log_others is not None
    totals = logits.log_normalizers(np.arange(len(logits.scores)))
    return replace(logits, scores=logits.scores - totals[:, None], log_others=logits.log_others - totals)


def _log_sum(scores: Scores, counted: NDArray[np.bool_], log_others: Scores) -> Scores:
    """Log of the summed exponentials of the scores that are counted and of the others."""
    highest = np.maximum(np.max(scores, axis=1, where=counted, initial=-np.inf), log_others)
    terms = np.exp(np.where(counted, scores - highest[:, None], -np.inf)).sum(axis=1) + np.exp(log_others - highest)
    total: Scores = (highest + np.log(terms)).astype(np.float32, copy=False)
    return total

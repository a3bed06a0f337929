"""Scores of the next token after the rules, over the whole vocabulary or over the tokens that can still be chosen.

Where an engine selects, few tokens come to the host: those that a rule may change, by name, and the best of the
others. The rules then see a row in which all other tokens are impossible. That gives the same best tokens as the whole
row, since rules treat the tokens that they do not name alike: they leave them, or make all of them impossible.
"""

from dataclasses import dataclass, field
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pointsman.decoding.rules import Rules
from pointsman.decoding.scores import along, checked_logits, log_normalizers, log_softmax
from pointsman.decoding.step import Answer, Selection, Selects, Wanted

Ids = NDArray[np.int64]
Scores = NDArray[np.float32]


class NextScores(Protocol):
    """Scores of candidates for each row's next token."""

    @property
    def scores(self) -> Scores:
        """`[rows, columns]`; `-inf` for what may not come."""
        ...

    def tokens(self, rows: Ids, columns: Ids) -> Ids:
        """The tokens of columns."""
        ...

    def log_normalizers(self, rows: Ids) -> Scores:
        """Log of the summed exponentials of all tokens' scores of each of `rows`, `[len(rows)]`."""
        ...


@dataclass(frozen=True, slots=True)
class WholeRows:
    """A column for every token of the vocabulary."""

    scores: Scores

    def tokens(self, _rows: Ids, columns: Ids) -> Ids:
        """See `NextScores.tokens`."""
        return columns

    def log_normalizers(self, rows: Ids) -> Scores:
        """See `NextScores.log_normalizers`."""
        return log_normalizers(self.scores if len(rows) == len(self.scores) else self.scores[rows])


@dataclass(frozen=True, slots=True)
class SelectedTokens:
    """Columns for the tokens that the rules name and for the best others.

    Attributes:
        scores: `[rows, columns]`; of a token that was named twice, one is `-inf`.
        token_ids: `[rows, columns]`, rising.
        named: `[rows, columns]`, the columns of named tokens.
        log_others: `[rows]`, log of the summed exponentials of the scores of all tokens not named.
    """

    scores: Scores
    token_ids: Ids
    named: NDArray[np.bool_]
    log_others: Scores

    @classmethod
    def merged(cls, named_ids: Ids, selection: Selection) -> Self:
        """Named tokens and best others in the order of their ids, so that ties fall as in a whole row."""
        token_ids = np.concatenate([named_ids, selection.best_ids], axis=1)
        order = np.argsort(token_ids, axis=1, kind="stable")
        token_ids = along(token_ids, order)
        scores = along(np.concatenate([selection.named_logits, selection.best_logits], axis=1), order)
        scores[:, 1:][token_ids[:, 1:] == token_ids[:, :-1]] = -np.inf  # named twice
        return cls(scores, token_ids, order < named_ids.shape[1], selection.log_total)

    def tokens(self, rows: Ids, columns: Ids) -> Ids:
        """See `NextScores.tokens`."""
        return self.token_ids[rows, columns]

    def log_normalizers(self, rows: Ids) -> Scores:
        """See `NextScores.log_normalizers`."""
        return _log_sum(self.scores[rows], self.named[rows], self.log_others[rows])

    def normalized(self) -> "SelectedTokens":
        """Logits to log-probabilities."""
        totals = self.log_normalizers(np.arange(len(self.scores)))
        return SelectedTokens(self.scores - totals[:, None], self.token_ids, self.named, self.log_others - totals)

    def processed(self, rules: Rules, prefixes: Ids, impossible: Scores) -> "SelectedTokens":
        """What the rules leave.

        Args:
            rules: Applied to whole rows, in which tokens without a column are impossible.
            prefixes: `[rows, length]`.
            impossible: `-inf`, `[rows, vocabulary]`, to work in; it is the same afterwards.
        """
        possible = self.scores > -np.inf
        rows = np.arange(len(prefixes))[:, None]
        impossible[np.nonzero(possible)[0], self.token_ids[possible]] = self.scores[possible]
        processed = rules.process(prefixes, impossible)
        scores = np.where(possible, processed[rows, self.token_ids], -np.inf).astype(np.float32, copy=False)
        impossible[rows, self.token_ids] = -np.inf
        others_remain = ((scores > -np.inf) & ~self.named).any(axis=1)
        log_others = np.where(others_remain, self.log_others, -np.inf).astype(np.float32, copy=False)
        return SelectedTokens(scores, self.token_ids, self.named, log_others)


class Scorer(Protocol):
    """Makes scores of what an engine answers."""

    def wanted(self, prefixes: Ids) -> Wanted | None:
        """What an engine is to select for rows with these prefixes `[rows, length]`; None for all logits."""
        ...

    def scores(self, answer: Answer, prefixes: Ids) -> NextScores:
        """Scores of the tokens that follow the prefixes for which something was wanted last.

        Raises:
            ParityError: The logits are not finite.
        """
        ...


def scorer_of(selects: Selects | None, rules: Rules, *, count: int | None, normalized: bool) -> Scorer:
    """The scorer that asks the engine for as little as it can.

    Args:
        selects: What the engine can select.
        rules: Applied to what it gives.
        count: How many of each row's best tokens matter; None for all.
        normalized: Whether the rules are applied to log-probabilities instead of logits.
    """
    if count is not None and selects is not None and count <= selects.most:
        return _SelectedScorer(rules, normalized, count, selects.vocabulary)
    return _WholeScorer(rules, normalized)


@dataclass(frozen=True, slots=True)
class _WholeScorer:
    rules: Rules
    normalized: bool

    def wanted(self, _prefixes: Ids) -> None:
        return None

    def scores(self, answer: Answer, prefixes: Ids) -> WholeRows:
        assert not isinstance(answer, Selection)
        logits = checked_logits(answer, position=prefixes.shape[1])
        return WholeRows(self.rules.process(prefixes, log_softmax(logits) if self.normalized else logits))


@dataclass(slots=True)
class _SelectedScorer:
    """Keeps from step to step what is as large as the vocabulary, and what it asked for last."""

    rules: Rules
    normalized: bool
    count: int
    vocabulary: int
    _named_ids: Ids = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    _impossible: Scores = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    def wanted(self, prefixes: Ids) -> Wanted:
        self._named_ids = self.rules.named(prefixes)
        return Wanted(self._named_ids, self.count)

    def scores(self, answer: Answer, prefixes: Ids) -> SelectedTokens:
        assert isinstance(answer, Selection)
        totals = answer.log_total[:, None]
        checked_logits(np.concatenate([answer.named_logits, totals], axis=1), position=prefixes.shape[1])
        merged = SelectedTokens.merged(self._named_ids, answer)
        if self.normalized:
            merged = merged.normalized()
        if not self.rules.processors:
            return merged
        if len(self._impossible) != len(prefixes):
            self._impossible = np.full((len(prefixes), self.vocabulary), -np.inf, np.float32)
        return merged.processed(self.rules, prefixes, self._impossible)


def _log_sum(scores: Scores, counted: NDArray[np.bool_], log_others: Scores) -> Scores:
    """Log of the summed exponentials of the scores that are counted and of the others."""
    those = np.where(counted, scores, -np.inf)
    highest = np.maximum(those.max(axis=1), log_others)
    terms = np.exp(those - highest[:, None]).sum(axis=1) + np.exp(log_others - highest)
    total: Scores = (highest + np.log(terms)).astype(np.float32, copy=False)
    return total

"""What one call of `decode` or `stream` obeys at every step: which tokens are possible, and when to stop.

Each processor computes what that of the same name in transformers 5.23.0 (`generation/logits_process.py`) does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from pointsman.decoding.generation import SpecialTokens
from pointsman.decoding.options import DecodingOptions
from pointsman.errors import OptionsError


class LogitsProcessor(Protocol):
    """Changes the scores of the next token according to what has been generated.

    It says beforehand which tokens it may change. Of all other tokens of a row it makes either none impossible or all,
    and changes nothing else. It must not remember rows between calls: beams change places.
    """

    def named(self, prefixes: NDArray[np.int64]) -> NDArray[np.int64]:
        """The tokens `[rows, any]` that the call with these prefixes may read or change; some may be repeated."""
        ...

    def __call__(self, prefixes: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Process the scores of one step.

        Args:
            prefixes: `[rows, length]`, the tokens so far, decoder start token included.
            scores: `[rows, vocabulary]`, logits (greedy, sampling) or log-probabilities (beam search); the processor
                may write into it.

        Returns:
            The processed scores; the same array or another of its shape. `-inf` makes a token impossible.
        """
        ...


class Constraint(LogitsProcessor, Protocol):
    """A processor that may also end sequences. Rows of one input lie together, equally many each."""

    @property
    def ending_tokens(self) -> int:
        """The most different tokens, eos included, that may end one sequence."""
        ...

    def of_inputs(self, inputs: NDArray[np.int64]) -> Self:
        """The constraint of some of its inputs, when the others are done.

        Args:
            inputs: int64, which, rising.
        """
        ...

    def ended(self, prefixes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows `[rows]` are complete, given the tokens so far `[rows, length]`, decoder start included."""
        ...


@dataclass(frozen=True, slots=True)
class RepetitionPenalty:
    """Divides positive scores of tokens that have occurred by the penalty and multiplies negative ones.

    Source: CTRL, arXiv:1909.05858, section 4.1. The decoder start token counts as having occurred.
    """

    penalty: float

    def named(self, prefixes: NDArray[np.int64]) -> NDArray[np.int64]:
        """What has occurred."""
        return prefixes

    def __call__(self, prefixes: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Penalise; a token that occurred twice is penalised once."""
        seen = np.take_along_axis(scores, prefixes, axis=1)  # [rows, length]
        penalised = np.where(seen < 0, seen * self.penalty, seen / self.penalty).astype(np.float32, copy=False)
        np.put_along_axis(scores, prefixes, penalised, axis=1)
        return scores


@dataclass(frozen=True, slots=True)
class NoRepeatNgram:
    """Makes every token impossible that would complete an n-gram for the second time."""

    size: int

    def named(self, prefixes: NDArray[np.int64]) -> NDArray[np.int64]:
        """What has occurred: an n-gram that would come again ends in it."""
        return prefixes

    def __call__(self, prefixes: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Ban the last token of each earlier n-gram that begins like the prefix ends."""
        length = prefixes.shape[1]
        if length < self.size:
            return scores
        ngrams = sliding_window_view(prefixes, self.size, axis=1)  # [rows, ngrams, size]
        ending = prefixes[:, None, length - self.size + 1 :]  # [rows, 1, size - 1]
        rows, positions = np.nonzero((ngrams[:, :, :-1] == ending).all(axis=2))
        scores[rows, ngrams[rows, positions, -1]] = -np.inf
        return scores


@dataclass(frozen=True, slots=True)
class MinNewTokens:
    """Makes the ends impossible until enough tokens have been generated."""

    count: int
    eos_ids: tuple[int, ...]

    def named(self, prefixes: NDArray[np.int64]) -> NDArray[np.int64]:
        """The ends."""
        return _in_each_row(self.eos_ids, prefixes)

    def __call__(self, prefixes: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Ban them; the decoder start token does not count as generated."""
        if prefixes.shape[1] - 1 < self.count:
            scores[:, self.eos_ids] = -np.inf
        return scores


@dataclass(frozen=True, slots=True)
class BadWords:
    """Makes every token impossible that would complete one of some sequences (`NoBadWordsLogitsProcessor`)."""

    sequences: tuple[tuple[int, ...], ...]

    def named(self, prefixes: NDArray[np.int64]) -> NDArray[np.int64]:
        """What they end with."""
        return _in_each_row([ids[-1] for ids in self.sequences], prefixes)

    def __call__(self, prefixes: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Ban the last token of each sequence whose others are what the prefix ends with."""
        for *begun, last in self.sequences:
            if len(begun) <= prefixes.shape[1]:
                matches = (prefixes[:, prefixes.shape[1] - len(begun) :] == begun).all(axis=1)
                scores[matches, last] = -np.inf
        return scores


@dataclass(frozen=True, slots=True)
class Suppressed:
    """Makes tokens impossible, everywhere or at one place.

    Attributes:
        ids: Which.
        length: Of the prefix before that place.
    """

    ids: tuple[int, ...]
    length: int | None = None

    def named(self, prefixes: NDArray[np.int64]) -> NDArray[np.int64]:
        """All of them."""
        return _in_each_row(self.ids, prefixes)

    def __call__(self, prefixes: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Ban them."""
        if self.length in (None, prefixes.shape[1]):
            scores[:, self.ids] = -np.inf
        return scores


@dataclass(frozen=True, slots=True)
class Forced:
    """Leaves some tokens alone at one place, all equally likely.

    Attributes:
        ids: Which.
        length: Of the prefix before that place.
    """

    ids: tuple[int, ...]
    length: int

    def named(self, prefixes: NDArray[np.int64]) -> NDArray[np.int64]:
        """All of them."""
        return _in_each_row(self.ids, prefixes)

    def __call__(self, prefixes: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Ban all others."""
        if prefixes.shape[1] == self.length:
            scores[:] = -np.inf
            scores[:, self.ids] = 0
        return scores


def _in_each_row(ids: Sequence[int], prefixes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The ids for each prefix, `[rows, ids]`."""
    return np.broadcast_to(np.asarray(ids, np.int64), (len(prefixes), len(ids)))


def processors_of(options: DecodingOptions, tokens: SpecialTokens) -> tuple[LogitsProcessor, ...]:
    """The processors that options and tokens ask for, in the order transformers applies them."""
    processors: list[LogitsProcessor] = []
    if options.repetition_penalty != 1.0:
        processors.append(RepetitionPenalty(options.repetition_penalty))
    if options.no_repeat_ngram_size > 0:
        processors.append(NoRepeatNgram(options.no_repeat_ngram_size))
    words = tuple(ids for ids in tokens.bad_words if not (len(ids) == 1 and ids[0] in tokens.eos_ids))
    if words:
        processors.append(BadWords(words))
    if options.min_new_tokens > 0:
        processors.append(MinNewTokens(options.min_new_tokens, tokens.eos_ids))
    return (*processors, *_forced(options, tokens), *_suppressed(tokens))


def _forced(options: DecodingOptions, tokens: SpecialTokens) -> Iterator[Forced]:
    if tokens.forced_first is not None:
        yield Forced((tokens.forced_first,), length=1)
    if tokens.forced_last:
        yield Forced(tokens.forced_last, length=options.max_new_tokens)


def _suppressed(tokens: SpecialTokens) -> Iterator[Suppressed]:
    if tokens.suppressed:
        yield Suppressed(tokens.suppressed)
    if tokens.suppressed_first:
        yield Suppressed(tokens.suppressed_first, length=1 if tokens.forced_first is None else 2)


@dataclass(frozen=True, slots=True)
class Rules:
    """The processors in their order, what ends a sequence, and the number that the first input has for the caller."""

    tokens: SpecialTokens
    processors: tuple[LogitsProcessor, ...]
    constraint: Constraint | None
    first_input: int = 0

    @classmethod
    def of(
        cls, options: DecodingOptions, tokens: SpecialTokens, constraint: Constraint | None, first_input: int
    ) -> Self:
        """The options' and the tokens' processors first, then the constraint, which so has the last word.

        What output begins and ends with is the constraint's to say where there is one, and nothing is forced.
        """
        if constraint is None:
            return cls(tokens, processors_of(options, tokens), None, first_input)
        unforced = replace(tokens, forced_first=None, forced_last=())
        return cls(tokens, (*processors_of(options, unforced), constraint), constraint, first_input)

    def of_inputs(self, inputs: NDArray[np.int64]) -> Self:
        """The rules of some of the inputs, when the others are done; `first_input` stays."""
        if self.constraint is None:
            return self
        fewer = self.constraint.of_inputs(inputs)
        return replace(self, processors=(*self.processors[:-1], fewer), constraint=fewer)

    @property
    def ending_tokens(self) -> int:
        """How many different tokens may end one sequence."""
        return len(self.tokens.eos_ids) if self.constraint is None else self.constraint.ending_tokens

    def process(self, prefixes: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the processors; they may write into `scores` `[rows, vocabulary]`."""
        for processor in self.processors:
            scores = processor(prefixes, scores)
        return scores

    def named(self, prefixes: NDArray[np.int64]) -> NDArray[np.int64]:
        """The tokens `[rows, any]` that the processors may change."""
        return np.concatenate([prefixes[:, :0], *(each.named(prefixes) for each in self.processors)], axis=1)

    def ended(self, prefixes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows `[rows]` end with the last token of their prefix `[rows, length]`."""
        by_eos: NDArray[np.bool_] = (prefixes[:, -1:] == self.tokens.eos_ids).any(axis=1)
        return by_eos if self.constraint is None else by_eos | self.constraint.ended(prefixes)

    def no_token_possible(self, input_index: int) -> OptionsError:
        """The error of a search that the processors together have left nowhere to go."""
        number = self.first_input + input_index
        rules = "no_repeat_ngram_size, min_new_tokens"
        if any(isinstance(each, (BadWords, Suppressed, Forced)) for each in self.processors):
            rules += ", the tokens that the checkpoint forces or suppresses"
        return OptionsError(
            f"input {number}: {rules} and the constraint together leave no possible token; relax one of them"
        )

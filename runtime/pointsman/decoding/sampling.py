"""Drawing tokens: temperature, top-k and top-p, and one random stream per sequence.

The distributions equal those of transformers 5.23.0's warpers of the same names. The draws do not: they come from
numpy, one stream per (input, return index), so that a sequence does not depend on what else is in the batch. Inputs
that are decoded in several batches are numbered throughout, so that it does not depend on their size either.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pointsman.decoding.options import DecodingOptions


class Warper(Protocol):
    """Reshapes the distribution that a token is drawn from."""

    def __call__(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Change the scores `[rows, vocabulary]` in place and return them; `-inf` is never drawn."""
        ...


@dataclass(frozen=True, slots=True)
class Temperature:
    """Divides the scores: below 1 sharpens the distribution, above 1 flattens it."""

    temperature: float

    def __call__(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Divide in place."""
        scores /= np.float32(self.temperature)
        return scores


@dataclass(frozen=True, slots=True)
class TopK:
    """Keeps the `k` highest scores of each row, and whatever ties with the lowest of them."""

    k: int

    def __call__(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Set the others to `-inf`."""
        if self.k < scores.shape[1]:
            lowest_kept = np.partition(scores, -self.k, axis=1)[:, -self.k, None]
            scores[scores < lowest_kept] = -np.inf
        return scores


@dataclass(frozen=True, slots=True)
class TopP:
    """Keeps the fewest highest scores whose probabilities sum to at least `p` (nucleus, arXiv:1904.09751)."""

    p: float

    def __call__(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Set the others to `-inf`; scores that tie with the lowest kept are kept."""
        for row in scores:
            rising = np.sort(row[row > -np.inf])
            reached = np.cumsum(_unnormalized(rising))
            dropped = int(np.searchsorted(reached, (1 - self.p) * reached[-1], side="right"))
            row[row < rising[min(dropped, len(rising) - 1)]] = -np.inf
        return scores


def warpers_of(options: DecodingOptions) -> tuple[Warper, ...]:
    """The warpers that the options ask for, in the order transformers applies them."""
    warpers: list[Warper] = []
    if options.temperature != 1.0:
        warpers.append(Temperature(options.temperature))
    if options.top_k > 0:
        warpers.append(TopK(options.top_k))
    if options.top_p < 1.0:
        warpers.append(TopP(options.top_p))
    return tuple(warpers)


class Sampler:
    """Draws one token per row, each row from its own random stream."""

    def __init__(self, options: DecodingOptions, batch_size: int, first_input: int = 0) -> None:
        self._warpers = warpers_of(options)
        inputs = range(first_input, first_input + batch_size)
        self._streams = [*_streams(options.seed, inputs, options.num_return_sequences)]

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Go on with these rows only, which are counted anew."""
        self._streams = [self._streams[row] for row in rows]

    def __call__(self, scores: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Draw for the given rows of `scores` `[all rows, vocabulary]`, which is left as it is."""
        warped = scores[rows]  # indexing by an array copies
        for warper in self._warpers:
            warped = warper(warped)
        streams: Sequence[np.random.Generator] = [self._streams[row] for row in rows]
        return np.array([_draw(row, stream) for row, stream in zip(warped, streams, strict=True)], np.int64)


def _streams(seed: int | None, inputs: range, num_return_sequences: int) -> Iterator[np.random.Generator]:
    entropy = np.random.SeedSequence(seed).entropy
    for input_index in inputs:
        for return_index in range(num_return_sequences):
            key = (input_index, return_index)
            yield np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=key))


def _draw(scores: NDArray[np.float32], stream: np.random.Generator) -> int:
    candidates = np.flatnonzero(scores > -np.inf)
    reached = np.cumsum(_unnormalized(scores[candidates]))
    drawn = np.searchsorted(reached, stream.random() * reached[-1], side="right")
    return int(candidates[min(int(drawn), len(candidates) - 1)])


def _unnormalized(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Softmax without the division, in float64 so that long sums keep their small terms."""
    return np.exp(scores.astype(np.float64) - np.float64(scores.max()))

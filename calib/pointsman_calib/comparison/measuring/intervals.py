"""The C4 loss of a variant, and how sure one can be of it.

The loss is that of QMoE's evaluation (Frantar & Alistarh 2023): cross-entropy in nats, averaged over the tokens of the
spans that were cut out; sentinels and eos are not counted. Documents, not tokens, are what was drawn from C4, so
confidence intervals resample documents: the percentile bootstrap (Efron & Tibshirani 1993, chapter 13) of a ratio of
sums.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pointsman_calib.comparison.records import Interval

RESAMPLES: Final = 1000
FEWEST_DOCUMENTS: Final = 5  # resamples of fewer are too alike for an interval
_PERCENTILES: Final = (2.5, 97.5)

Floats = NDArray[np.float64]


@dataclass(slots=True)
class DocumentLosses:
    """Each document's summed loss and number of span tokens: two numbers a document.

    Attributes:
        nats: of each document.
        tokens: likewise.
    """

    nats: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def update(self, losses: Floats, span_mask: NDArray[np.bool_], label_mask: NDArray[np.bool_]) -> None:
        """Count a batch.

        Args:
            losses: of the labels that are there, in the order of ``label_mask``'s true values.
            span_mask: ``[batch, target]``.
            label_mask: ``[batch, target]``.
        """
        placed = np.zeros(label_mask.shape)
        placed[label_mask] = losses
        self.nats += (placed * span_mask).sum(axis=1).tolist()
        self.tokens += span_mask.sum(axis=1).tolist()

    def merge(self, later: "DocumentLosses") -> None:
        """Put other documents behind these."""
        self.nats += later.nats
        self.tokens += later.tokens

    @property
    def sums(self) -> Floats:
        """Nats, ``[documents]``."""
        return np.array(self.nats, np.float64)

    @property
    def counts(self) -> Floats:
        """Span tokens, ``[documents]``."""
        return np.array(self.tokens, np.float64)

    @property
    def mean(self) -> float:
        """Nats per span token."""
        return float(self.sums.sum() / self.counts.sum())


def loss_interval(losses: DocumentLosses, *, seed: int) -> Interval:
    """Nats per span token."""
    return _interval(losses.mean, _resampled(losses, seed), losses.counts.size)


def increase_interval(baseline: DocumentLosses, candidate: DocumentLosses, *, seed: int) -> Interval:
    """Percent of the baseline's loss that the candidate loses more; both are resampled to the same documents."""
    ratios = _resampled(candidate, seed) / _resampled(baseline, seed)
    return _interval(100 * (candidate.mean / baseline.mean - 1), 100 * (ratios - 1), baseline.counts.size)


def _resampled(losses: DocumentLosses, seed: int) -> Floats:
    """The loss of each resample, ``[RESAMPLES]``; the seed alone decides which documents are in it."""
    sums, counts = losses.sums, losses.counts
    generator = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        drawn = generator.integers(sums.size, size=sums.size)
        means[number] = sums[drawn].sum() / counts[drawn].sum()
    return means


def _interval(value: float, resampled: Floats, documents: int) -> Interval:
    if documents < FEWEST_DOCUMENTS:
        return Interval(value=value, low=None, high=None)
    low, high = np.percentile(resampled, _PERCENTILES)
    return Interval(value=value, low=float(low), high=float(high))

"""Running statistics of how far two tensors are apart: bounded memory, whatever the number of documents."""

import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pointsman_calib.comparison.records import TensorErrors

Array = NDArray[Any]
Floats = NDArray[np.float64]

_CHUNK: Final = 1 << 20  # values widened to float64 at a time
_TINY: Final = float(np.finfo(np.float64).tiny)


class RowPowers(NamedTuple):
    """Sums of squares of each row, float64 ``[tokens]``: of the baseline, and of the difference from it."""

    signal: Floats
    noise: Floats


class ErrorTally:
    """Errors of one tensor against the baseline's, batch by batch; sums are in float64."""

    def __init__(self) -> None:
        self.values = 0
        self.signal = self.candidate_signal = self.product = self.noise = 0.0
        self.absolute_sum = self.magnitude_sum = 0.0
        self.max_absolute = self.max_magnitude = 0.0

    def update(self, baseline: Array, candidate: Array) -> RowPowers:
        """Count two finite tensors of one shape, ``[tokens, ...]``, and return what each token adds."""
        if baseline.shape != candidate.shape:
            raise ValueError(f"shapes {baseline.shape} and {candidate.shape} differ")
        rows, others = (value.reshape(len(value), -1) for value in (baseline, candidate))
        step = max(1, _CHUNK // max(1, rows.shape[1]))
        powers = [
            self._count(rows[start : start + step].astype(np.float64), others[start : start + step].astype(np.float64))
            for start in range(0, len(rows), step)
        ]
        return RowPowers(*map(np.concatenate, zip(*powers, strict=True)))

    def _count(self, baseline: Floats, candidate: Floats) -> RowPowers:
        error = np.abs(baseline - candidate)
        magnitude = np.abs(baseline)
        powers = RowPowers(_square_sums(baseline), _square_sums(error))
        self.values += baseline.size
        self.signal += float(powers.signal.sum())
        self.noise += float(powers.noise.sum())
        self.candidate_signal += float(_square_sums(candidate).sum())
        self.product += float(np.vdot(baseline, candidate))
        self.absolute_sum += float(error.sum())
        self.magnitude_sum += float(magnitude.sum())
        self.max_absolute = max(self.max_absolute, float(error.max()))
        self.max_magnitude = max(self.max_magnitude, float(magnitude.max()))
        return powers

    def result(self, name: str) -> TensorErrors:
        """The statistics so far; something must have been counted."""
        return TensorErrors(
            name=name,
            values=self.values,
            sqnr_db=sqnr_db(self.signal, self.noise),
            cosine=self._cosine(),
            max_absolute=self.max_absolute,
            mean_absolute=self.absolute_sum / self.values,
            max_relative=self.max_absolute / max(self.max_magnitude, _TINY),
            mean_relative=self.absolute_sum / max(self.magnitude_sum, _TINY),
        )

    def _cosine(self) -> float:
        norms = math.sqrt(self.signal) * math.sqrt(self.candidate_signal)
        if norms == 0:  # two zero vectors point the same way, one does not
            return float(self.signal == self.candidate_signal)
        return max(-1.0, min(1.0, self.product / norms))


class StepTally:
    """Signal and noise of each decoder step, over all documents that are long enough to have it."""

    def __init__(self) -> None:
        self._signal: Floats = np.zeros(0)
        self._noise: Floats = np.zeros(0)

    def update(self, steps: NDArray[np.int64], powers: RowPowers) -> None:
        """Count rows, each at its step, both ``[tokens]``."""
        length = max(self._signal.size, int(steps.max()) + 1)
        self._signal = _grown(self._signal, length) + np.bincount(steps, powers.signal, length)
        self._noise = _grown(self._noise, length) + np.bincount(steps, powers.noise, length)

    def sqnr_db(self) -> tuple[float | None, ...]:
        """Of each step, from the first."""
        return tuple(sqnr_db(*pair) for pair in zip(self._signal.tolist(), self._noise.tolist(), strict=True))


@dataclass(slots=True)
class Share:
    """How many of some things agree.

    Attributes:
        agree: those that do.
        total: all.
    """

    agree: int = 0
    total: int = 0

    def update(self, same: NDArray[np.bool_]) -> None:
        """Count more of them."""
        self.agree += int(np.count_nonzero(same))
        self.total += same.size

    @property
    def value(self) -> float:
        """The share; 1 of nothing."""
        return self.agree / self.total if self.total else 1.0


def sqnr_db(signal: float, noise: float) -> float | None:
    """10 log10 of two sums of squares; None where there is no noise."""
    return None if noise == 0 else 10 * math.log10(max(signal, _TINY) / max(noise, _TINY))


def _square_sums(rows: Floats) -> Floats:
    sums: Floats = np.einsum("ij,ij->i", rows, rows)
    return sums


def _grown(values: Floats, length: int) -> Floats:
    return np.pad(values, (0, length - values.size))

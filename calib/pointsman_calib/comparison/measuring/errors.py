"""Running statistics of how far two tensors are apart: bounded memory, whatever the number of documents."""

import math
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pointsman_calib.comparison.measuring.sums import Sum
from pointsman_calib.comparison.records import TensorErrors

Array = NDArray[Any]
Floats = NDArray[np.float64]

_CHUNK: Final = 1 << 20  # values widened to float64 at a time
_TINY: Final = float(np.finfo(np.float64).tiny)


class RowPowers(NamedTuple):
    """Sums of squares of each row, float64 ``[tokens]``: of the baseline, and of the difference from it."""

    signal: Floats
    noise: Floats


@dataclass(slots=True)
class ErrorTally:
    """Errors of one tensor against the baseline's, batch by batch; sums are in float64.

    Attributes:
        values: how many were compared.
        signal: sum of the baseline's squares.
        candidate_signal: sum of the candidate's squares.
        product: sum of products of the two.
        noise: sum of squares of their difference.
        absolute: sum of its magnitudes.
        magnitude: sum of the baseline's magnitudes.
        max_absolute: the largest magnitude of the difference.
        max_magnitude: the largest of the baseline's.
    """

    values: int = 0
    signal: Sum = field(default_factory=Sum)
    candidate_signal: Sum = field(default_factory=Sum)
    product: Sum = field(default_factory=Sum)
    noise: Sum = field(default_factory=Sum)
    absolute: Sum = field(default_factory=Sum)
    magnitude: Sum = field(default_factory=Sum)
    max_absolute: float = 0.0
    max_magnitude: float = 0.0

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
        powers = RowPowers(_row_products(baseline, baseline), _row_products(error, error))
        self.values += baseline.size
        self.signal.add(float(powers.signal.sum()))
        self.noise.add(float(powers.noise.sum()))
        self.candidate_signal.add(float(_row_products(candidate, candidate).sum()))
        self.product.add(float(_row_products(baseline, candidate).sum()))
        self.absolute.add(float(error.sum()))
        self.magnitude.add(float(magnitude.sum()))
        self.max_absolute = max(self.max_absolute, float(error.max()))
        self.max_magnitude = max(self.max_magnitude, float(magnitude.max()))
        return powers

    def merge(self, other: "ErrorTally") -> None:
        """Count what another has counted."""
        self.values += other.values
        self.signal.merge(other.signal)
        self.candidate_signal.merge(other.candidate_signal)
        self.product.merge(other.product)
        self.noise.merge(other.noise)
        self.absolute.merge(other.absolute)
        self.magnitude.merge(other.magnitude)
        self.max_absolute = max(self.max_absolute, other.max_absolute)
        self.max_magnitude = max(self.max_magnitude, other.max_magnitude)

    def result(self, name: str) -> TensorErrors:
        """The statistics so far; something must have been counted."""
        return TensorErrors(
            name=name,
            values=self.values,
            sqnr_db=sqnr_db(self.signal.value, self.noise.value),
            cosine=self._cosine(),
            max_absolute=self.max_absolute,
            mean_absolute=self.absolute.value / self.values,
            max_relative=self.max_absolute / max(self.max_magnitude, _TINY),
            mean_relative=self.absolute.value / max(self.magnitude.value, _TINY),
        )

    def _cosine(self) -> float:
        signal, candidate_signal = self.signal.value, self.candidate_signal.value
        norms = math.sqrt(signal) * math.sqrt(candidate_signal)
        if norms == 0:  # two zero vectors point the same way, one does not
            return float(signal == candidate_signal)
        return max(-1.0, min(1.0, self.product.value / norms))


@dataclass(slots=True)
class StepTally:
    """Signal and noise of each decoder step, over all documents that are long enough to have it.

    Attributes:
        signal: each step's sum of the baseline's squares.
        noise: each step's sum of squares of the difference.
    """

    signal: list[Sum] = field(default_factory=list)
    noise: list[Sum] = field(default_factory=list)

    def update(self, steps: NDArray[np.int64], powers: RowPowers) -> None:
        """Count rows, each at its step, both ``[tokens]``."""
        for sums, each in zip((self.signal, self.noise), powers, strict=True):
            _grow(sums, int(steps.max()) + 1)
            for total, value in zip(sums, np.bincount(steps, each).tolist(), strict=False):
                total.add(value)

    def merge(self, other: "StepTally") -> None:
        """Count what another has counted."""
        for sums, others in ((self.signal, other.signal), (self.noise, other.noise)):
            _grow(sums, len(others))
            for total, value in zip(sums, others, strict=False):
                total.merge(value)

    def sqnr_db(self) -> tuple[float | None, ...]:
        """Of each step, from the first."""
        return tuple(sqnr_db(signal.value, noise.value) for signal, noise in zip(self.signal, self.noise, strict=True))


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

    def merge(self, other: "Share") -> None:
        """Count what another has counted."""
        self.agree += other.agree
        self.total += other.total

    @property
    def value(self) -> float:
        """The share; 1 of nothing."""
        return self.agree / self.total if self.total else 1.0


def sqnr_db(signal: float, noise: float) -> float | None:
    """10 log10 of two sums of squares; None where there is no noise."""
    return None if noise == 0 else 10 * math.log10(max(signal, _TINY) / max(noise, _TINY))


def _row_products(rows: Floats, others: Floats) -> Floats:
    """Of each pair of rows. Not by BLAS, whose sums depend on how many threads it has."""
    products: Floats = np.einsum("ij,ij->i", rows, others)
    return products


def _grow(sums: list[Sum], length: int) -> None:
    sums += [Sum() for _ in range(length - len(sums))]

"""One tensor's magnitudes, counted as they stream by in memory that does not grow."""

import math
from collections.abc import Mapping
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import BundleError, OptionsError
from pointsman_calib.ranges.clipping import DEFAULT_PERCENTILE, Method, entropy_clip, mse_clip, percentile_clip

_FEWEST_BINS: Final = 512
_LEAST_EXPONENT: Final = -64  # keeps bins / range finite in float32; ranges below 2⁻⁶⁴ share the lowest bins
_CHUNK: Final = 1 << 17  # values binned at once: the temporaries stay in the cache


class RangeObserver:
    """Counts |x| in bins of equal width, beside the exact minimum, maximum and number of zeros.

    The bins cover [0, 2ᵏ) for the least k that holds every value. A larger value doubles the range by adding
    neighbouring bins in pairs, which is exact because every width is a power of two: the counts depend on the values
    alone, never on their order or their division into batches.

    Attributes:
        name: the tensor's, for messages.
        count: values seen.
        zeros: how many of them were exactly zero; they are in no bin.
        least: the smallest value, +inf before the first.
        greatest: the largest value, -inf before the first.
        counts: [bins] int64, nonzero magnitudes in each bin.
    """

    def __init__(self, name: str, bins: int = 4096) -> None:
        """Start with no values.

        Args:
            name: the tensor's, for messages.
            bins: a power of two, 512 or more. The largest magnitude lies in the upper half of them.

        Raises:
            OptionsError: `bins` is something else.
        """
        if bins < _FEWEST_BINS or bins & (bins - 1):
            raise OptionsError(f"{bins} bins for {name}: give a power of two of {_FEWEST_BINS} or more")
        self.name = name
        self.count = 0
        self.zeros = 0
        self.least = math.inf
        self.greatest = -math.inf
        self.counts: NDArray[np.int64] = np.zeros(bins, np.int64)
        self._exponent = _LEAST_EXPONENT  # k

    @property
    def width(self) -> float:
        """Width of a bin."""
        return math.ldexp(1.0, self._exponent - self.counts.size.bit_length() + 1)

    def update(self, values: NDArray[np.floating[Any]]) -> None:
        """Count an array of any shape, float16, float32 or float64; an empty one changes nothing.

        Raises:
            BundleError: a value is NaN or infinite. The observer is as it was before.
        """
        if values.size == 0:
            return
        flat = values.reshape(-1).astype(np.result_type(values.dtype, np.float32), copy=False)
        least, greatest = float(flat.min()), float(flat.max())  # NaN, if there is one, becomes both
        if not (math.isfinite(least) and math.isfinite(greatest)):
            raise BundleError(
                f"{self.name} takes values that are NaN or infinite: its graph overflows on this text; calibrate a "
                "float32 variant, or verify the bundle's files if it is one"
            )
        self._widen(math.frexp(max(-least, greatest))[1])
        for start in range(0, flat.size, _CHUNK):
            self._count(flat[start : start + _CHUNK])
        self._extend(least, greatest)

    def amax(self, method: Method, percentile: float = DEFAULT_PERCENTILE) -> float:
        """The largest magnitude that INT8 should keep; the scale is this over 127.

        Args:
            method: "minmax" (the largest seen), "percentile", "entropy" or "mse".
            percentile: percent of the nonzero magnitudes to keep, for "percentile".

        Returns:
            at most the largest magnitude seen; 0.0 if every value was zero.

        Raises:
            OptionsError: no value was seen, or `percentile` is not in (0, 100].
        """
        if self.count == 0:
            raise OptionsError(f"no value of {self.name} was seen: calibrate with more text, or leave it in float")
        largest = max(-self.least, self.greatest)
        if method == "minmax" or largest == 0:
            return largest
        if method == "mse":
            return mse_clip(self.counts, self.width, largest)
        if method == "entropy":
            return min(largest, entropy_clip(self.counts, self.width))
        return min(largest, percentile_clip(self.counts, self.width, percentile))

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything but the name as arrays, for `numpy.savez`; always of the same size."""
        return {
            "counts": self.counts.copy(),
            "totals": np.array([self.count, self.zeros, self._exponent], np.int64),
            "extremes": np.array([self.least, self.greatest], np.float64),
        }

    @classmethod
    def from_state(cls, name: str, state: Mapping[str, NDArray[Any]]) -> Self:
        """An observer that goes on from where `state` was taken."""
        observer = cls(name, bins=state["counts"].size)
        observer.counts[:] = state["counts"]
        observer.count, observer.zeros, observer._exponent = map(int, state["totals"])
        observer.least, observer.greatest = map(float, state["extremes"])
        return observer

    def _widen(self, exponent: int) -> None:
        if exponent > self._exponent:
            self.counts = _halved(self.counts, exponent - self._exponent)
            self._exponent = exponent

    def _count(self, flat: NDArray[np.floating[Any]]) -> None:
        places = (np.abs(flat) * flat.dtype.type(1 / self.width)).astype(np.intp)
        zeros = flat.size - int(np.count_nonzero(flat))
        self.counts += np.bincount(places, minlength=self.counts.size)
        self.counts[0] -= zeros
        self.zeros += zeros
        self.count += flat.size

    def _extend(self, least: float, greatest: float) -> None:
        self.least, self.greatest = min(self.least, least), max(self.greatest, greatest)


def _halved(counts: NDArray[np.int64], times: int) -> NDArray[np.int64]:
    """The counts after the range was doubled `times` times: pairs of bins become one."""
    group = 1 << min(times, counts.size.bit_length() - 1)
    sums = counts.reshape(-1, group).sum(axis=1)
    return np.concatenate((sums, np.zeros(counts.size - sums.size, np.int64)))

"""Where to clip: four ways to turn a histogram of magnitudes into the largest magnitude that INT8 keeps.

All are functions of the counts of nonzero magnitudes in bins of equal width that start at zero. Exact zeros are counted
elsewhere: they are exact under every symmetric scale, so they say nothing about where to clip, and after a ReLU they
would drown what does.
"""

from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import OptionsError
from pointsman_calib.rounding import LARGEST_INT8

Method = Literal["minmax", "percentile", "entropy", "mse"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)
DEFAULT_PERCENTILE: Final = 99.99

_LEVELS: Final = 128  # magnitudes that the entropy method's candidate distribution tells apart
_RATIOS: Final = np.exp2(-np.arange(321) / 32)  # the mse method's clips, as parts of the largest magnitude: 1 … 1/1024


def check_percentile(percentile: float) -> None:
    """Refuse what is no percentile.

    Raises:
        OptionsError: it is not in (0, 100].
    """
    if not 0 < percentile <= 100:
        raise OptionsError(f"percentile is {percentile}; it must be above 0 and at most 100")


def check_method(method: str) -> None:
    """Refuse what is no method.

    Raises:
        OptionsError: it is none of `METHODS`.
    """
    if method not in METHODS:
        raise OptionsError(f"unknown range method {method!r}; use {', '.join(METHODS)}")


def percentile_clip(counts: NDArray[np.int64], width: float, percentile: float) -> float:
    """The bin edge below which at least `percentile` percent of the nonzero magnitudes lie.

    Args:
        counts: [bins] nonzero magnitudes in each bin, at least one of them positive.
        width: of a bin.
        percentile: in (0, 100].

    Raises:
        OptionsError: `percentile` is out of range.
    """
    check_percentile(percentile)
    cumulative = np.cumsum(counts)
    rank = percentile / 100 * cumulative[-1]
    return float(np.searchsorted(cumulative, rank) + 1) * width


def entropy_clip(counts: NDArray[np.int64], width: float) -> float:
    """The clip whose quantized distribution loses the least information.

    The method of TensorRT's entropy calibrator (S. Migacz, "8-bit Inference with TensorRT", GTC 2017, slide "Entropy
    Calibration - pseudocode"), with two choices that the slides leave open taken from NVIDIA's pytorch-quantization:
    the first bin is given its neighbour's count, since whatever is that small becomes zero under any clip, and of
    equally good clips the widest wins.

    Args:
        counts: [bins] nonzero magnitudes in each bin, at least one of them positive.
        width: of a bin.

    Returns:
        the upper edge of the last bin kept.
    """
    used = int(np.flatnonzero(counts)[-1]) + 1
    if used <= _LEVELS:
        return used * width
    divergence = divergences(counts[:used])
    narrowest_from_the_end = int(np.argmin(divergence[::-1]))
    return (used - narrowest_from_the_end) * width


def divergences(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """KL divergence of the quantized from the clipped distribution, for each number of bins kept from 128 to all.

    P holds the bins kept, and in its last one all that lies beyond. Q spreads what each of 128 equal groups of the kept
    bins holds (without what lies beyond) evenly over the group's bins that are not empty in P. Since Q is constant in a
    group, prefix sums give every term for every candidate at once, and no candidate's distribution is ever built.

    Args:
        counts: [bins] of which the last is positive, more than 128 bins.

    Returns:
        [bins - 127] in nats; infinite where Q is empty and P is not.
    """
    mass = counts.astype(np.float64)
    mass[0] = mass[1]
    kept = np.arange(_LEVELS, mass.size + 1)  # [candidates] bins kept
    edges = -(-kept[:, None] * np.arange(_LEVELS + 1) // _LEVELS)  # [candidates, levels + 1] first bin of each group
    inside = _prefix_sums(mass)[kept]
    beyond = mass.sum() - inside
    group_mass = np.diff(_prefix_sums(mass)[edges], axis=1)  # [candidates, levels]
    group_bins = np.diff(_prefix_sums(mass > 0)[edges], axis=1)
    group_bins[:, -1] += (mass[kept - 1] == 0) & (beyond > 0)
    last = mass[kept - 1] + beyond
    entropy_of_p = _prefix_sums(_xlogy(mass, mass))[kept - 1] + _xlogy(last, last)
    weight = group_mass.copy()  # [candidates, levels] P's mass in each group
    weight[:, -1] += beyond
    density = np.divide(group_mass, group_bins, out=np.zeros_like(group_mass), where=group_bins > 0)
    inside = np.where(inside > 0, inside, 1)  # where nothing is kept, the density is 0 and the divergence infinite
    cross_entropy = _xlogy(weight, density / inside[:, None]).sum(axis=1)
    return np.asarray((entropy_of_p - cross_entropy) / mass.sum() - np.log(mass.sum()))


def mse_clip(counts: NDArray[np.int64], width: float, largest: float) -> float:
    """The clip of least mean squared error, of 321 from `largest` down to 1/1024 of it in steps of 2.2 %.

    Args:
        counts: [bins] nonzero magnitudes in each bin, at least one of them positive.
        width: of a bin.
        largest: the largest magnitude.
    """
    clips = largest * _RATIOS
    return float(clips[np.argmin(squared_errors(counts, 1.0, clips / width))])  # in bins, whose cubes are finite


def squared_errors(counts: NDArray[np.int64], width: float, clips: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of squared errors of INT8 under each clip.

    Within a bin the magnitudes are taken as evenly spread and the error is integrated exactly, so that a clip narrow
    enough for several codes to fall into one bin is judged rightly too. Exact zeros have no error and are not needed.

    Args:
        counts: [bins] nonzero magnitudes in each bin.
        width: of a bin.
        clips: [clips] largest magnitudes to keep.

    Returns:
        [clips]
    """
    filled = np.flatnonzero(counts)
    steps = clips[:, None] / LARGEST_INT8  # [clips, 1]
    upper, lower = (_integrated_error((filled + side) * width / steps) for side in (1, 0))  # [clips, filled]
    return np.asarray((steps**3 * (upper - lower)) @ counts[filled] / width)


def _integrated_error(magnitude: NDArray[np.float64]) -> NDArray[np.float64]:
    """Integral from 0 of (x - round(x))², where nothing rounds above 127; magnitudes are counted in steps."""
    code = np.minimum(np.rint(magnitude), LARGEST_INT8)
    return np.asarray(code / 12 + (magnitude - code) ** 3 / 3)


def _prefix_sums(values: NDArray[np.float64] | NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))


def _xlogy(weight: NDArray[np.float64], value: NDArray[np.float64]) -> NDArray[np.float64]:
    """A weighted logarithm, weight · log(value): 0 where weight is 0, -inf where only value is."""
    logarithm = np.log(value, out=np.full_like(value, -np.inf), where=value > 0)
    return np.multiply(weight, logarithm, out=np.zeros_like(value), where=weight > 0)

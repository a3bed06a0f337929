"""Clipping methods against direct implementations, and on distributions whose answer is known."""

import numpy as np
import pytest

from pointsman.errors import OptionsError
from pointsman_calib.ranges import RangeObserver, check_method
from pointsman_calib.ranges.clipping import divergences, squared_errors

SAMPLES = 300_000


def gaussian(generator):
    return generator.standard_normal(SAMPLES)


def laplace(generator):
    return generator.laplace(size=SAMPLES)


def uniform(generator):
    return generator.uniform(-1, 1, SAMPLES)


def rectified_with_outliers(generator):
    """0.001 % of the values lie at 50 standard deviations."""
    values = np.maximum(generator.standard_normal(SAMPLES), 0)
    values[generator.choice(SAMPLES, SAMPLES // 100_000, replace=False)] = 50
    return values


DISTRIBUTIONS = [gaussian, laplace, uniform, rectified_with_outliers]


def observed(distribution, bins=4096):
    values = distribution(np.random.default_rng(7)).astype(np.float32)
    observer = RangeObserver(distribution.__name__, bins=bins)
    observer.update(values)
    return observer, values.astype(np.float64)


def direct_divergence(counts, kept):
    """KL(P || Q) of one candidate as the slides draw it: build P, merge it to 128 levels, expand it to Q."""
    mass = counts.astype(np.float64)
    mass[0] = mass[1]
    p = mass[:kept].copy()
    p[-1] += mass[kept:].sum()
    q = np.zeros(kept)
    level = np.arange(kept) * 128 // kept  # of each bin
    for group in range(128):
        filled = (level == group) & (p > 0)
        if filled.any():
            q[filled] = mass[:kept][level == group].sum() / filled.sum()
    p, q = p / p.sum(), q / max(q.sum(), 1e-300)
    if np.any((p > 0) & (q == 0)):
        return np.inf
    return float(np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0])))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_divergences_equal_a_direct_implementation(distribution):
    observer, _ = observed(distribution, bins=512)
    used = np.flatnonzero(observer.counts)[-1] + 1
    found = divergences(observer.counts[:used])
    expected = [direct_divergence(observer.counts[:used], kept) for kept in range(128, used + 1)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_divergences_of_sparse_histograms_equal_a_direct_implementation(seed):
    generator = np.random.default_rng(seed)
    counts = generator.integers(1, 50, 400) * (generator.random(400) < [0.02, 0.5][seed % 2])
    counts[-1] = 1
    expected = [direct_divergence(counts, kept) for kept in range(128, 401)]
    np.testing.assert_allclose(divergences(counts), expected, atol=1e-12)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_entropy_chooses_the_widest_clip_of_least_divergence(distribution):
    observer, values = observed(distribution, bins=512)
    used = np.flatnonzero(observer.counts)[-1] + 1
    scores = {kept: direct_divergence(observer.counts[:used], kept) for kept in range(128, used + 1)}
    best = max(kept for kept, score in scores.items() if score <= min(scores.values()) + 1e-12)
    assert observer.amax("entropy") == min(best * observer.width, np.abs(values).max())


def brute_force_errors(values, clips):
    steps = clips / 127
    return np.array([np.sum((np.clip(np.rint(values / s), -127, 127) * s - values) ** 2) for s in steps])


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_mse_equals_a_brute_force_search_over_all_data(distribution):
    observer, values = observed(distribution)
    clips = np.abs(values).max() * 2.0 ** (-np.arange(321) / 32)
    near = clips[np.abs(np.log2(clips / observer.amax("mse"))) < 1]
    errors = brute_force_errors(values, near)
    chosen = errors[near == observer.amax("mse")]
    assert chosen.size == 1
    assert chosen[0] <= errors.min() * 1.002  # neighbouring clips differ by less than chance
    np.testing.assert_allclose(squared_errors(observer.counts, observer.width, near), errors, rtol=0.02)


def test_integrated_errors_are_right_for_clips_finer_than_bins():
    observer, values = observed(gaussian, bins=512)
    clips = np.array([0.1, 0.5, 2.0])  # steps down to a tenth of a bin
    np.testing.assert_allclose(
        squared_errors(observer.counts, observer.width, clips), brute_force_errors(values, clips), rtol=0.01
    )


@pytest.mark.parametrize(
    ("distribution", "method", "low", "high"),
    [
        (gaussian, "entropy", 3.5, 5.2),
        (gaussian, "mse", 3.6, 4.4),  # the optimum of 255 symmetric levels is 3.9 to 4.0 standard deviations
        (gaussian, "percentile", 3.7, 4.1),
        (laplace, "entropy", 6.0, 13.0),
        (laplace, "mse", 9.0, 10.7),  # the optimum of 8 bits is 9.9 (Banner et al. 2019, table 1)
        (uniform, "entropy", 0.97, 1.0),
        (uniform, "mse", 0.97, 1.0),
        (rectified_with_outliers, "entropy", 3.5, 5.2),
        (rectified_with_outliers, "percentile", 3.4, 4.4),
        (rectified_with_outliers, "mse", 30.0, 50.0),  # three squared errors of 46 outweigh all rounding
        (rectified_with_outliers, "minmax", 50.0, 50.0),
    ],
)
def test_known_distributions_are_clipped_sensibly(distribution, method, low, high):
    observer, _ = observed(distribution)
    assert low <= observer.amax(method) <= high


@pytest.mark.parametrize("method", ["percentile", "entropy", "mse"])
def test_ranges_scale_with_the_values(method):
    values = gaussian(np.random.default_rng(3)).astype(np.float32)
    plain, scaled = RangeObserver("plain"), RangeObserver("scaled")
    plain.update(values)
    scaled.update(values * 1024)
    assert scaled.amax(method) == 1024 * plain.amax(method)


def test_a_method_that_there_is_not():
    with pytest.raises(OptionsError) as raised:
        check_method("max")
    assert str(raised.value) == "unknown range method 'max'; use minmax, percentile, entropy, mse"

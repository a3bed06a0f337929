"""Running statistics against plain NumPy on the whole tensors."""

import numpy as np
import pytest

from pointsman_calib.comparison.measuring.errors import ErrorTally, RowPowers, Share, StepTally

BATCHES = (3, 1, 7)


def pair(shape=(), dtype=np.float32, seed=0):
    """A baseline and a candidate near it, in batches of a few tokens each."""
    generator = np.random.default_rng(seed)
    sizes = [(tokens, *shape) for tokens in BATCHES]
    baseline = [generator.normal(size=size).astype(dtype) for size in sizes]
    return baseline, [(b + 0.1 * generator.normal(size=b.shape)).astype(dtype) for b in baseline]


def tallied(baseline, candidate):
    tally = ErrorTally()
    powers = [tally.update(b, c) for b, c in zip(baseline, candidate, strict=True)]
    return tally.result("tensor"), powers


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (200_000,)])  # the last is taken a few rows at a time
def test_statistics_are_those_of_the_whole(shape, dtype):
    baseline, candidate = pair(shape, dtype)
    result, powers = tallied(baseline, candidate)
    b, c = (np.concatenate(values).astype(np.float64) for values in (baseline, candidate))
    error = np.abs(b - c)
    rows = tuple(range(1, b.ndim))
    np.testing.assert_allclose(np.concatenate([each.signal for each in powers]), (b**2).sum(axis=rows))
    np.testing.assert_allclose(np.concatenate([each.noise for each in powers]), (error**2).sum(axis=rows))
    assert (result.name, result.values) == ("tensor", b.size)
    assert result.sqnr_db == pytest.approx(10 * np.log10((b**2).sum() / (error**2).sum()))
    assert result.cosine == pytest.approx((b * c).sum() / (np.linalg.norm(b) * np.linalg.norm(c)))
    assert result.max_absolute == error.max()
    assert result.mean_absolute == pytest.approx(error.mean())
    assert result.max_relative == pytest.approx(error.max() / np.abs(b).max())
    assert result.mean_relative == pytest.approx(error.mean() / np.abs(b).mean())


def test_what_is_equal_has_no_noise():
    baseline, _ = pair((4,))
    result, _ = tallied(baseline, baseline)
    assert (result.sqnr_db, result.max_absolute, result.mean_relative) == (None, 0.0, 0.0)
    assert result.cosine == pytest.approx(1.0)


@pytest.mark.parametrize(("candidate", "cosine"), [(0.0, 1.0), (1.0, 0.0)])
def test_a_baseline_of_zeros(candidate, cosine):
    result, _ = tallied([np.zeros((2, 3))], [np.full((2, 3), candidate)])
    assert result.cosine == cosine
    assert (result.sqnr_db is None) == (candidate == 0)


def test_shapes_must_be_equal():
    with pytest.raises(ValueError, match="differ"):
        ErrorTally().update(np.zeros((2, 3)), np.zeros((3, 2)))


def test_steps_gather_the_rows_of_their_position():
    baseline, candidate = pair((8,))
    steps = [np.array([0, 1, 2]), np.array([0]), np.array([0, 1, 2, 3, 0, 1, 2])]
    tally = StepTally()
    for step, b, c in zip(steps, baseline, candidate, strict=True):
        tally.update(step, ErrorTally().update(b, c))
    b, c, at = (np.concatenate(values) for values in (baseline, candidate, steps))
    expected = [
        10 * np.log10((b[at == n].astype(float) ** 2).sum() / ((b - c)[at == n].astype(float) ** 2).sum())
        for n in range(4)
    ]
    assert tally.sqnr_db() == pytest.approx(expected, rel=1e-5)


def test_a_step_where_nothing_differs():
    tally = StepTally()
    tally.update(np.array([0, 2]), RowPowers(np.array([1.0, 1.0]), np.array([0.0, 0.1])))
    assert tally.sqnr_db() == (None, None, pytest.approx(10.0))


def test_shares():
    share = Share()
    assert share.value == 1.0
    share.update(np.array([True, False, True]))
    share.update(np.array([True]))
    assert share.value == 0.75

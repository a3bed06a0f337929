"""Range observers against numpy over all the data at once."""

import io

import numpy as np
import pytest

from pointsman.errors import BundleError, OptionsError
from pointsman_calib.ranges import METHODS, RangeObserver


def growing_batches(seed=0):
    """Batches of many shapes whose magnitudes grow, shrink and are sometimes zero, and one without values."""
    generator = np.random.default_rng(seed)
    shapes = [(3, 5), (1000,), (2, 7, 11), (0, 4), (200_000,), (1,)]
    scales = [1e-3, 40.0, 0.5, 1.0, 3.0, 977.0]
    batches = [scale * generator.standard_normal(shape) for scale, shape in zip(scales, shapes, strict=True)]
    batches[1] = np.maximum(batches[1], 0)
    return [batch.astype(np.float32) for batch in batches]


def observed(batches, **options):
    observer = RangeObserver("layer.0", **options)
    for batch in batches:
        observer.update(batch)
    return observer


def assert_same(one, other):
    assert one.state().keys() == other.state().keys()
    for name, array in one.state().items():
        np.testing.assert_array_equal(array, other.state()[name])


def test_counts_are_those_of_a_histogram_of_all_data():
    batches = growing_batches()
    observer = observed(batches)
    everything = np.concatenate([batch.ravel() for batch in batches])
    nonzero = np.abs(everything[everything != 0])
    span = 2.0 ** np.ceil(np.log2(nonzero.max()))
    expected, _ = np.histogram(nonzero, bins=4096, range=(0, span))
    np.testing.assert_array_equal(observer.counts, expected)
    assert observer.width == span / 4096
    assert (observer.count, observer.zeros) == (everything.size, np.sum(everything == 0))
    assert (observer.least, observer.greatest) == (everything.min(), everything.max())


@pytest.mark.parametrize("seed", range(5))
def test_order_and_division_into_batches_do_not_matter(seed):
    batches = growing_batches(seed)
    shuffled = np.random.default_rng(seed).permutation(np.concatenate([batch.ravel() for batch in batches]))
    expected = observed(batches)
    assert_same(expected, observed(batches[::-1]))
    assert_same(expected, observed(np.array_split(shuffled, 17)))


def test_a_saved_state_goes_on_where_it_was_taken():
    batches = growing_batches()
    file = io.BytesIO()
    np.savez(file, **observed(batches[:3]).state())
    file.seek(0)
    with np.load(file) as state:
        resumed = RangeObserver.from_state("layer.0", state)
    for batch in batches[3:]:
        resumed.update(batch)
    assert_same(resumed, observed(batches))


def test_the_state_does_not_grow():
    def size(observer):
        return sum(array.nbytes for array in observer.state().values())

    assert size(observed(growing_batches())) == size(RangeObserver("layer.0"))


def test_a_taken_state_is_a_copy():
    observer = observed(growing_batches()[:2])
    before = observer.state()
    counts = before["counts"].copy()
    observer.update(np.ones(5, np.float32))
    np.testing.assert_array_equal(before["counts"], counts)


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (np.float16, [6e-8, 65504.0, -1.0]),
        (np.float32, [1e-45, 3.4e38, -1.0]),
        (np.float64, [5e-324, 1.7e308, -1.0]),
        (np.float32, [1e-45, -1e-40, 0.0]),
        (np.float32, [1.0, 1.0, 1.0]),
    ],
)
def test_extreme_values_are_counted(dtype, values):
    array = np.array(values, dtype)
    observer = observed([array])
    assert observer.counts.sum() + observer.zeros == array.size
    assert observer.amax("minmax") == np.abs(array).max()
    assert all(0 < observer.amax(method) <= observer.amax("minmax") for method in METHODS)


def test_a_power_of_two_opens_the_next_range():
    observer = observed([np.array([2.0], np.float32)])
    assert observer.width == 4 / 4096
    assert observer.counts[2048] == 1


@pytest.mark.parametrize("percentile", [50, 99, 99.9, 99.99, 100])
def test_percentile_is_within_a_bin_of_numpys(percentile):
    batches = growing_batches()
    observer = observed(batches)
    everything = np.concatenate([np.abs(batch).ravel() for batch in batches]).astype(np.float64)
    expected = np.percentile(everything[everything > 0], percentile, method="inverted_cdf")
    assert 0 <= observer.amax("percentile", percentile) - expected <= observer.width


@pytest.mark.parametrize("method", METHODS)
def test_zeros_change_no_range(method):
    batches = growing_batches()
    with_zeros = observed([*batches, np.zeros(1_000_000, np.float32)])
    assert with_zeros.amax(method) == observed(batches).amax(method)


@pytest.mark.parametrize("method", METHODS)
def test_zeros_alone_have_range_zero(method):
    assert observed([np.zeros(10, np.float32)]).amax(method) == 0.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_values_that_are_not_finite_are_refused_by_name(value, dtype):
    observer = observed(growing_batches())
    before = observer.state()
    with pytest.raises(BundleError, match=r"^layer\.0 takes values that are NaN or infinite"):
        observer.update(np.array([1e4, value, 0.0], dtype))
    for name, array in before.items():
        np.testing.assert_array_equal(array, observer.state()[name])


@pytest.mark.parametrize("bins", [0, 256, 1000, -4096])
def test_numbers_of_bins_that_cannot_be_are_refused(bins):
    with pytest.raises(OptionsError, match=r"bins for layer\.0: give a power of two of 512 or more"):
        RangeObserver("layer.0", bins=bins)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_seen_has_no_range(method):
    with pytest.raises(OptionsError, match=r"no value of layer\.0 was seen: calibrate with more text"):
        observed([np.empty((0, 8), np.float32)]).amax(method)


@pytest.mark.parametrize("percentile", [0, -1, 100.01, np.nan])
def test_percentiles_out_of_range_are_refused(percentile):
    with pytest.raises(OptionsError, match="must be above 0 and at most 100"):
        observed(growing_batches()).amax("percentile", percentile)

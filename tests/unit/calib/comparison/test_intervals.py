"""The loss of documents and its bootstrap: seeded, paired, and as wide as theory has it."""

import numpy as np
import pytest

from pointsman_calib.comparison.measuring.intervals import DocumentLosses, increase_interval, loss_interval


def losses(sums, counts):
    made = DocumentLosses()
    for total, count in zip(sums, counts, strict=True):
        labels = np.ones((1, int(count)), np.bool_)
        made.update(np.full(int(count), total / count), labels, labels)
    return made


@pytest.fixture
def many():
    """Two hundred documents, and the same with a little more loss."""
    generator = np.random.default_rng(7)
    counts = generator.integers(5, 60, size=200)
    sums = counts * generator.normal(3.0, 0.5, size=200)
    return losses(sums, counts), losses(sums * 1.01 + generator.normal(0, 0.1, size=200), counts)


def test_only_tokens_of_spans_count():
    label_mask = np.array([[True, True, True, True], [True, True, False, False]])
    span_mask = np.array([[False, True, True, False], [False, True, False, False]])
    counted = DocumentLosses()
    counted.update(np.array([9.0, 1.0, 2.0, 9.0, 9.0, 4.0]), span_mask, label_mask)
    assert counted.sums.tolist() == [3.0, 4.0]
    assert counted.counts.tolist() == [2.0, 1.0]
    assert counted.mean == pytest.approx(7 / 3)


def test_the_interval_is_as_wide_as_the_ratio_estimator_has_it(many):
    baseline, _ = many
    interval = loss_interval(baseline, seed=0)
    residuals = baseline.sums - baseline.mean * baseline.counts
    error = residuals.std(ddof=1) / (np.sqrt(200) * baseline.counts.mean())
    assert interval.value == baseline.mean
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert interval.low < interval.value < interval.high


def test_the_same_seed_gives_the_same_interval(many):
    baseline, candidate = many
    assert loss_interval(baseline, seed=3) == loss_interval(baseline, seed=3)
    assert increase_interval(baseline, candidate, seed=3) == increase_interval(baseline, candidate, seed=3)
    assert loss_interval(baseline, seed=3) != loss_interval(baseline, seed=4)


def test_increases_are_paired_by_document(many):
    baseline, candidate = many
    increase = increase_interval(baseline, candidate, seed=0)
    alone = loss_interval(baseline, seed=0)
    assert increase.value == pytest.approx(100 * (candidate.mean / baseline.mean - 1))
    assert increase.low < increase.value < increase.high
    assert increase.high - increase.low < 100 * (alone.high - alone.low) / alone.value / 10


def test_a_variant_beside_itself_loses_nothing(many):
    baseline, _ = many
    increase = increase_interval(baseline, baseline, seed=0)
    assert (increase.value, increase.low, increase.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(("documents", "known"), [(1, False), (4, False), (5, True)])
def test_few_documents_give_no_interval(documents, known):
    some = losses([6.0, 7.0, 8.0, 6.5, 7.5][:documents], [3, 3, 3, 3, 3][:documents])
    for interval in (loss_interval(some, seed=0), increase_interval(some, some, seed=0)):
        assert (interval.low is not None, interval.high is not None) == (known, known)
    assert loss_interval(some, seed=0).value == some.mean

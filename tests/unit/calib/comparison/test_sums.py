"""Sums without rounding, whatever is added in whatever order."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from pointsman_calib.comparison.measuring.sums import Sum


def summed(values):
    made = Sum()
    for value in values:
        made.add(value)
    return made


@pytest.mark.parametrize(
    ("values", "total"),
    [
        ([], 0.0),
        ([1e100, 1.0, -1e100], 1.0),
        ([1.0, 2.0**-53, 2.0**-106], 1.0 + 2.0**-52),  # a tie, but for the last
        ([0.1] * 10, 1.0),
        ([5e-324, 1e308, -1e308], 5e-324),
    ],
)
def test_a_sum_is_rounded_once(values, total):
    for order in itertools.islice(itertools.permutations(values), 24):
        assert summed(order).value == total


def test_sums_of_parts_come_to_that_of_the_whole():
    generator = np.random.default_rng(0)
    values = (generator.normal(size=3000) * 10.0 ** generator.integers(-12, 12, size=3000)).tolist()
    exact = float(sum(map(Fraction, values)))
    for part in (1, 7, 1000):
        merged = Sum()
        for start in range(0, len(values), part):
            merged.merge(summed(values[start : start + part]))
        assert merged.value == exact
        assert sum(map(Fraction, merged.parts)) == sum(map(Fraction, values))
        assert len(merged.parts) < 16
    assert sum(values) != exact

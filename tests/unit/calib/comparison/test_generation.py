"""What generations have in common."""

import pytest

from pointsman_calib.comparison.measuring.generation import agreement


def test_generations_are_compared_up_to_the_first_difference():
    one = {"greedy": [(1, 2, 3, 4), (5, 6)], "4 beams": [(1,), (2,)]}
    other = {"greedy": [(1, 2, 9, 4), (5, 6)], "4 beams": [(1,), (2,)]}
    greedy, beams = agreement(one, other)
    assert (greedy.search, greedy.documents, greedy.identical) == ("greedy", 2, 1)
    assert greedy.prefix == pytest.approx(4 / 6)
    assert (beams.identical, beams.prefix) == (2, 1.0)

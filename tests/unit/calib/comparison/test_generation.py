"""What generations have in common, and what several turns of timing come to."""

import shutil
from dataclasses import replace

import pytest

from pointsman.bundle import read_manifest, write_manifest
from pointsman.bundle.manifest import Limits
from pointsman.model import SwitchModel
from pointsman_calib.comparison.measuring.generation import Turn, agreement, generate, speed, timed


def test_generations_are_compared_up_to_the_first_difference():
    one = {"greedy": [(1, 2, 3, 4), (5, 6)], "4 beams": [(1,), (2,)]}
    other = {"greedy": [(1, 2, 9, 4), (5, 6)], "4 beams": [(1,), (2,)]}
    greedy, beams = agreement(one, other)
    assert (greedy.search, greedy.documents, greedy.identical) == ("greedy", 2, 1)
    assert greedy.prefix == pytest.approx(4 / 6)
    assert (beams.identical, beams.prefix) == (2, 1.0)


def test_speed_is_a_median_of_all_turns():
    found = speed([Turn([0.010, 0.030], [0.001, 0.002, 0.003]), Turn([0.020], [0.004, 0.005])])
    assert (found.ms_to_first_token, found.ms_per_token, found.tokens) == pytest.approx((20.0, 3.0, 5))
    assert found.ms_per_token_of_rounds == pytest.approx((2.0, 4.5))


def test_a_bundle_of_few_tokens(tiny_bundle, tmp_path):
    """No more are asked for than it allows."""
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    write_manifest(replace(read_manifest(bundle), limits=Limits(tokens=6)), bundle)
    model = SwitchModel.load(bundle, "cpu", threads=1)
    generations = generate(model, [[9, 1]])
    assert all(len(ids) <= 6 for own in generations.values() for ids in own)
    assert len(timed(model, [[9, 1]]).further) == 5

"""Ranges of shapes: what they cover, and what they are tuned for."""

import pytest

from pointsman.bundle import AxisRange, Limits
from pointsman_export.plans.profiles import profiles_for

ONE = AxisRange(min=1, opt=1, max=1)


def test_an_encoder_has_a_profile_for_one_input_and_one_for_many():
    one, full = profiles_for("encoder", Limits(tokens=2048), 8)
    assert (one.name, full.name) == ("one-row", "full")
    assert one.axes == {"batch": ONE, "source": AxisRange(min=1, opt=128, max=2048)}
    assert full.axes == one.axes | {"batch": AxisRange(min=1, opt=8, max=8)}


def test_a_decoder_step_takes_one_position_and_a_cache_of_one_capacity():
    one, full = profiles_for("decoder", Limits(tokens=512), 4)
    assert one.axes["rows"] == one.axes["batch"] == ONE
    assert one.axes["width"] == ONE
    assert full.axes["rows"] == full.axes["batch"] == full.axes["width"] == AxisRange(min=1, opt=4, max=4)
    assert one.axes["capacity"] == full.axes["capacity"] == AxisRange(min=512, opt=512, max=512)


def test_a_single_row_needs_one_profile():
    assert [profile.name for profile in profiles_for("decoder", Limits(tokens=64), 1)] == ["one-row"]


@pytest.mark.parametrize("tokens", [1, 2, 20, 128, 129])
@pytest.mark.parametrize("role", ["encoder", "decoder"])
def test_small_limits_bound_what_is_typical(role, tokens):
    for profile in profiles_for(role, Limits(tokens=tokens), 2):
        for axis in profile.axes.values():
            assert axis.min <= axis.opt <= axis.max
            assert axis.max > 0
        assert profile.axes["source"].max == tokens

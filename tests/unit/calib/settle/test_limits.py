"""What holds, what is said of what does not, and which limits there can be."""

import math

import numpy as np
import pytest
from text import corpus, random_examples

from pointsman.bundle import Fidelity
from pointsman.errors import OptionsError
from pointsman_calib.quantization import quantize
from pointsman_calib.settle import Limits, Scores

NEAR = Fidelity(loss_increase=0.005, agreement=0.99, expert_agreement=0.98)


@pytest.mark.parametrize(
    ("limits", "lines"),
    [
        (Limits(), []),
        (Limits(max_loss_increase=0.5, min_agreement=99, min_expert_agreement=98, min_sqnr=30), []),
        (Limits(max_loss_increase=0.4), ["the loss is 0.5 % above the baseline's; at most 0.4 % is allowed"]),
        (Limits(min_agreement=99.5), ["99 % of tokens are the baseline's; at least 99.5 % must be so"]),
        (Limits(min_expert_agreement=99), ["98 % of tokens go to the baseline's expert; at least 99 % must be so"]),
        (Limits(min_sqnr=31), ["the logits' signal is 30 dB above the error; it must be 31 dB at least"]),
    ],
)
def test_sentences(limits, lines):
    assert list(limits.failures(NEAR, sqnr_db=30.0)) == lines


@pytest.mark.parametrize(("same", "of", "least"), [(944, 1000, 94.4), (939, 1000, 93.9), (471, 500, 94.2)])
def test_a_limit_that_is_just_reached(same, of, least):
    """In doubles, 100 times the share is below it."""
    fidelity = Fidelity(loss_increase=0, agreement=same / of, expert_agreement=1)
    assert list(Limits(min_agreement=least).failures(fidelity)) == []
    fidelity = Fidelity(loss_increase=0, agreement=(same - 1) / of, expert_agreement=1)
    assert len(list(Limits(min_agreement=least).failures(fidelity))) == 1


def test_logits_in_which_nothing_differs_hold():
    assert list(Limits(min_sqnr=100).failures(NEAR, sqnr_db=None)) == []


def test_what_is_no_number_never_holds():
    nothing = Fidelity(loss_increase=math.nan, agreement=math.nan, expert_agreement=math.nan)
    assert len(list(Limits(max_loss_increase=100, min_agreement=0, min_expert_agreement=0).failures(nothing))) == 3


def scores(losses, choices, experts):
    return Scores(np.array(losses), np.array(choices), {"router": np.array(experts)})


@pytest.mark.parametrize(
    ("limits", "holds", "routes_hold"),
    [
        (Limits(max_loss_increase=50, min_agreement=75, min_expert_agreement=50), True, True),
        (Limits(max_loss_increase=49), False, True),
        (Limits(min_agreement=76), False, True),
        (Limits(min_expert_agreement=51), False, False),
    ],
)
def test_scores_beside_the_float_variants(limits, holds, routes_hold):
    exact, rounded = scores([1, 1, 1, 1], [5, 6, 7, 8], [0, 1]), scores([1, 1, 1, 3], [5, 6, 7, 9], [0, 0])
    assert limits.hold(rounded, exact) is holds
    assert limits.hold_routes(rounded, exact) is routes_hold


@pytest.mark.parametrize(
    ("limits", "line"),
    [
        ({"max_loss_increase": -1}, "the largest loss increase is -1; give 0 percent or more"),
        ({"max_loss_increase": math.inf}, "the largest loss increase is inf; give 0 percent or more"),
        ({"min_agreement": 101}, "the least agreement is 101; give 0 to 100 percent"),
        ({"min_expert_agreement": math.nan}, "the least expert agreement is nan; give 0 to 100 percent"),
        ({"min_sqnr": -3}, "the least signal-to-noise ratio is -3; give 0 dB or more"),
    ],
)
def test_limits_that_cannot_be(limits, line):
    with pytest.raises(OptionsError, match=f"^{line}$"):
        Limits(**limits)


def test_a_limit_that_only_comparisons_measure(tmp_path):
    text = corpus(random_examples(0, [(3, 2)]))
    line = "the signal-to-noise ratio is measured by comparisons only: leave min_sqnr out"
    with pytest.raises(OptionsError, match=line):
        quantize(tmp_path, "int8", corpus=text, limits=Limits(min_sqnr=30))

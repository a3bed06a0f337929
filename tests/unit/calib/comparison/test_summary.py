"""A line for each candidate, and what is to be doubted."""

from dataclasses import replace

import pytest

from pointsman_calib.comparison.records import GenerationAgreement, Interval, NonFinite, Speed
from pointsman_calib.comparison.summary import doubts, headline
from pointsman_calib.comparison.table import as_text


def speed(*rounds):
    return Speed(ms_to_first_token=9.0, ms_per_token=sorted(rounds)[1], ms_per_token_of_rounds=rounds, tokens=240)


def interval(value, low, high):
    return Interval(value=value, low=low, high=high)


@pytest.fixture
def baseline(comparison):
    return replace(comparison.baseline, bytes=3500, speed=speed(2.0, 2.1, 2.2))


@pytest.fixture
def int8(comparison):
    found = comparison.candidates[0]
    variant = replace(found.variant, bytes=1000, speed=speed(1.0, 1.0, 1.0))
    return replace(found, variant=variant, loss_increase=interval(0.02, -0.1, 0.14))


def test_all_of_it(baseline, int8):
    assert headline(int8, baseline) == "3.5 times smaller, 2.1 times as fast, loss +0.02 % (cannot be told from 0)"


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (3500, "of the same size"),
        (3400, "of the same size"),
        (7000, "2.0 times as large"),
        (700, "5.0 times smaller"),
        (3150, "10% smaller"),
        (4000, "14% larger"),
    ],
)
def test_size(baseline, int8, size, words):
    assert headline(replace(int8, variant=replace(int8.variant, bytes=size)), baseline).startswith(f"{words}, ")


@pytest.mark.parametrize(
    ("rounds", "words"),
    [
        ((2.0, 2.1, 2.2), "about as fast"),
        ((4.0, 4.2, 4.4), "0.5 times as fast"),
        ((1.0, 1.5, 2.8), "1.4 times as fast (0.8 to 2.0 in turns: not sure)"),
    ],
)
def test_speed(baseline, int8, rounds, words):
    said = headline(replace(int8, variant=replace(int8.variant, speed=speed(*rounds))), baseline)
    assert said.removeprefix("3.5 times smaller, ").startswith(f"{words}, loss ")


@pytest.mark.parametrize(
    ("increase", "words"),
    [
        (interval(0.5, 0.1, 0.9), "loss +0.50 % (+0.10 to +0.90)"),
        (interval(-0.001, -0.003, 0.002), "loss +0.00 % (cannot be told from 0)"),  # no minus before a zero
        (interval(-0.5, -0.9, -0.1), "loss -0.50 % (-0.90 to -0.10)"),
        (interval(0.5, None, None), "loss +0.50 % (too few documents to say how sure that is)"),
    ],
)
def test_loss(baseline, int8, increase, words):
    assert headline(replace(int8, loss_increase=increase), baseline).endswith(f", {words}")


def test_what_was_not_measured_is_not_said(baseline, int8):
    untimed = replace(int8, variant=replace(int8.variant, speed=None))
    assert headline(untimed, baseline) == "3.5 times smaller, loss +0.02 % (cannot be told from 0)"
    qdq = replace(int8, variant=replace(int8.variant, precision="int8-qdq"))
    assert "made for TensorRT (its speed here says nothing)" in headline(qdq, baseline)
    nan = replace(int8, variant=replace(int8.variant, non_finite=(NonFinite(name="logits", values=1),)))
    assert headline(nan, baseline) == "gives values that are not finite, and so is of no use as it is"


def test_few_labels_and_generations(comparison):
    guessing, labels, generations = doubts(comparison)
    assert guessing.startswith("fused-float32 itself finds the right tokens no better than chance: its loss is ")
    assert labels.startswith(f"Few labels: 10 documents with {comparison.evaluation.label_tokens} labels, ")
    assert f"One of them is {100 / comparison.evaluation.label_tokens:.2f} points of every share" in labels
    assert generations.startswith("Few generations: 2. ")


def test_nothing_to_doubt(comparison):
    found = GenerationAgreement(search="greedy", documents=20, identical=20, prefix=1.0)
    candidates = tuple(replace(candidate, generations=(found,)) for candidate in comparison.candidates)
    evaluation = replace(comparison.evaluation, documents=100, label_tokens=2000, ids=10**6)
    sure = replace(comparison, evaluation=evaluation, candidates=candidates)
    assert list(doubts(sure)) == []
    few = replace(sure, evaluation=replace(evaluation, label_tokens=1999))
    assert [sentence.partition(":")[0] for sentence in doubts(few)] == ["Few labels"]


def test_nothing_generated(comparison):
    silent = replace(comparison, baseline=replace(comparison.baseline, speed=None))
    assert list(doubts(silent))[-1] == "Nothing was generated, so there is no speed, no memory and no fills."


def test_the_terminal_ends_with_it(comparison):
    text = as_text(comparison)
    for candidate in comparison.candidates:
        assert f"\n{candidate.variant.name}: {headline(candidate, comparison.baseline)}\n" in text
    assert all(f"{sentence}\n" in text for sentence in doubts(comparison))

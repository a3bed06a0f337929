"""What is reported of a candidate, and how limits judge it."""

from dataclasses import replace

import pytest

from pointsman.bundle import ActivationRanges, ExpertCoverage, read_manifest
from pointsman_calib.comparison import Limits
from pointsman_calib.comparison.judging import calibrated_experts, failures
from pointsman_calib.comparison.records import LayerCoverage, NonFinite


@pytest.fixture(scope="module")
def int8(comparison):
    return comparison.candidates[0]


def test_how_well_experts_were_seen_in_calibration(quantized_bundle):
    """Layers are named by their blocks, the encoder's first, whatever their order in the manifest."""
    manifest = read_manifest(quantized_bundle)
    variants, sizes = manifest.variants, manifest.architecture
    assert (
        calibrated_experts(variants["fused-float32"], sizes)
        is calibrated_experts(variants["fused-int8"], sizes)
        is None
    )
    variant = variants["fused-int4"]
    seen, counted = calibrated_experts(variant, sizes), variant.quantization.coverage
    assert (seen.fewest_tokens, seen.instead) == (5, "rounded to nearest")
    assert seen.thin == sum(map(len, counted.thin.values())) > 0
    assert [layer.layer for layer in seen.coverage] == [
        "encoder.block.1", "encoder.block.3", "decoder.block.1", "decoder.block.3"
    ]  # fmt: skip
    assert seen.coverage[0].tokens == counted.tokens["encoder.block.1.layer.1.mlp"]
    layers = {"decoder.block.1.layer.2.mlp": (90, 3), "encoder.block.3.layer.1.mlp": (50, 43)}
    quantization = replace(
        variant.quantization,
        activations=ActivationRanges(method="mse"),
        coverage=ExpertCoverage(fewest_tokens=32, tokens=layers, thin={**dict.fromkeys(layers, ()), "a": (1,)}),
    )
    seen = calibrated_experts(replace(variant, quantization=quantization), sizes)
    assert (seen.fewest_tokens, seen.thin, seen.instead) == (32, 1, "given their layer's range")
    assert seen.coverage == (
        LayerCoverage(layer="encoder.block.3", tokens=(50, 43)),
        LayerCoverage(layer="decoder.block.1", tokens=(90, 3)),
    )


@pytest.mark.parametrize(
    ("limits", "line"),
    [
        ({"max_loss_increase": 0.5}, "the loss is 0.7 % above the baseline's; at most 0.5 % is allowed"),
        ({"min_agreement": 99}, "98 % of tokens are the baseline's; at least 99 % must be so"),
        (
            {"min_expert_agreement": 99.5},
            "99 % of tokens go to the baseline's expert; at least 99.5 % must be so",
        ),
        ({"min_sqnr": 40}, "the logits' signal is 30 dB above the error; it must be 40 dB at least"),
    ],
)
def test_a_limit_that_does_not_hold(int8, limits, line):
    measured = replace(
        int8,
        loss_increase=replace(int8.loss_increase, value=0.7),
        token_agreement=0.98,
        expert_agreement=0.99,
        outputs=(replace(int8.outputs[-1], sqnr_db=30.0),),
    )
    assert list(failures(measured, Limits(**limits))) == [line]
    assert list(failures(measured, Limits())) == []


def test_limits_hold_at_their_value(int8):
    measured = replace(int8, loss_increase=replace(int8.loss_increase, value=0.5), token_agreement=0.99)
    assert list(failures(measured, Limits(max_loss_increase=0.5, min_agreement=99))) == []


def test_values_that_are_not_finite_never_hold(comparison, int8):
    poisoned = replace(int8.variant, non_finite=(NonFinite(name="decoder.block.1", values=3),))
    (line,) = failures(replace(int8, variant=poisoned), Limits(max_loss_increase=100))
    assert line == "values are not finite: 3 of decoder.block.1"
    result = replace(int8, variant=poisoned, failures=(line,))
    assert not replace(comparison, candidates=(result,)).passed

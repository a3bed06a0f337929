"""A whole comparison of a small bundle: what it says of variants, and how limits judge it."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from pointsman.bundle import ActivationRanges, read_manifest
from pointsman.errors import ParityError
from pointsman.model import SwitchModel
from pointsman_calib.comparison.evaluation import Settings, compare_bundle
from pointsman_calib.comparison.generation import agreement
from pointsman_calib.comparison.records import ExpertCoverage, Limits, NonFinite
from pointsman_calib.comparison.results import calibrated_experts, failures
from pointsman_calib.comparison.runners import TeacherForcingRunner
from pointsman_calib.comparison.subject import open_subject, survey
from pointsman_calib.comparison.table import as_text
from pointsman_calib.comparison.tallies import non_finite
from pointsman_calib.comparison.teacher_forcing import tally_all


@pytest.fixture(scope="module")
def int8(comparison):
    return comparison.candidates[0]


def test_the_loss_is_that_of_the_model_that_serves(quantized_bundle, corpus, comparison):
    model = SwitchModel.load(quantized_bundle, device="cpu", variant="fused-float32", threads=1)
    losses = []
    for example in corpus.examples:
        (scores,) = model.score([example.inputs.tolist()], [example.targets.tolist()])
        losses += (-scores[example.span_mask]).tolist()
    assert len(losses) == comparison.evaluation.span_tokens
    assert comparison.baseline.loss.value == pytest.approx(np.mean(losses), rel=1e-5)


def test_variants_are_described(comparison, quantized_bundle):
    manifest = read_manifest(quantized_bundle)
    float32, int8, int4 = comparison.baseline, *(candidate.variant for candidate in comparison.candidates)
    assert [variant.name for variant in (float32, int8, int4)] == ["fused-float32", "fused-int8", "fused-int4"]
    for variant in (float32, int8, int4):
        assert variant.bytes == sum(file.bytes for file in manifest.variants[variant.name].files)
        assert variant.ms_per_token > 0
    assert (float32.calibration, int8.calibration, int4.calibration.documents) == (None, None, 6)
    assert (float32.rounding, int8.rounding, int4.rounding) == (None, "nearest", "GPTQ")
    assert comparison.evaluation.documents == 10


def test_how_well_experts_were_seen_in_calibration(quantized_bundle):
    """Layers are named as routers are, the encoder's first, whatever their order in the manifest."""
    variants = read_manifest(quantized_bundle).variants
    assert calibrated_experts(variants["fused-float32"]) is calibrated_experts(variants["fused-int8"]) is None
    variant = variants["fused-int4"]
    seen, counted = calibrated_experts(variant), variant.quantization.coverage
    assert (seen.fewest_tokens, seen.instead) == (64, "rounded to nearest")
    assert seen.thin == sum(map(len, counted.thin.values())) > 0
    assert [layer.layer for layer in seen.coverage] == [
        "encoder.block.1", "encoder.block.3", "decoder.block.1", "decoder.block.3"
    ]  # fmt: skip
    assert seen.coverage[0].tokens == counted.tokens["encoder.block.1.layer.1.mlp"]
    layers = {"decoder.block.1.layer.2.mlp": (90, 3), "encoder.block.10.layer.1.mlp": (50, 43)}
    ranges = ActivationRanges(
        method="mse", fewest_tokens=32, coverage=layers, thin_experts={**dict.fromkeys(layers, ()), "a": (1,)}
    )
    seen = calibrated_experts(replace(variant, quantization=replace(variant.quantization, activations=ranges)))
    assert (seen.fewest_tokens, seen.thin, seen.instead) == (32, 1, "given their layer's range")
    assert seen.coverage == (
        ExpertCoverage(layer="encoder.block.10", tokens=(50, 43)),
        ExpertCoverage(layer="decoder.block.1", tokens=(90, 3)),
    )


def test_how_variants_were_quantized(comparison, quantized_bundle):
    float32, int8, int4 = comparison.baseline, *(candidate.variant for candidate in comparison.candidates)
    quantization = read_manifest(quantized_bundle).variants["fused-int4"].quantization
    assert (float32.quantized, float32.kept, float32.sensitivity) == (0, (), None)
    assert (int8.quantized, int8.kept, int8.sensitivity) == (len(quantization.formats), (), None)
    assert (int4.quantized, int4.sensitivity) == (len(quantization.formats), quantization.sensitivity)
    document = json.loads(comparison.to_json())["candidates"][1]["variant"]
    assert document["sensitivity"]["nearest"]["agreement"] == quantization.sensitivity.nearest.agreement
    assert document["calibrated_experts"]["thin"] == int4.calibrated_experts.thin


def test_the_table_says_what_was_spared(comparison):
    int8, int4 = comparison.candidates
    found = replace(int4.variant.sensitivity, costs={"decoder.block.3": 0.2, "b": 0.1, "c": 0.0, "d": 0.0})
    variant = replace(int4.variant, sensitivity=found, kept=("lm_head.weight",))
    qdq = replace(int8, variant=replace(int8.variant, precision="int8-qdq"))
    text = as_text(replace(comparison, candidates=(qdq, replace(int4, variant=variant))))
    (row,) = (line for line in text.splitlines() if line.startswith("fused-int4") and "GPTQ" in line)
    experts = variant.calibrated_experts
    assert f"  0                    1         {experts.thin} of 32 rounded to nearest  " in row
    assert row.endswith(f", {found.nearest.agreement:.2%}, {found.nearest.expert_agreement:.2%}")
    assert "costliest layers of fused-int4: decoder.block.3, b, c\n" in text
    assert "fused-int8 is for TensorRT: ONNX Runtime dequantizes its embedding and all of its experts" in text


def test_every_token_of_every_sparse_layer_has_an_expert(comparison):
    tokens = comparison.evaluation.source_tokens, comparison.evaluation.label_tokens
    for layer in comparison.baseline.coverage:
        assert sum(layer.tokens) == tokens[layer.layer.startswith("decoder")]
        assert len(layer.tokens) == 8
    assert [layer.layer for layer in comparison.baseline.coverage] == [
        "encoder.block.1", "encoder.block.3", "decoder.block.1", "decoder.block.3"
    ]  # fmt: skip


def test_fewer_bits_are_further_away(comparison):
    int8, int4 = comparison.candidates
    logits8, logits4 = int8.outputs[-1], int4.outputs[-1]
    assert (logits8.name, logits4.name) == ("logits", "logits")
    assert logits8.sqnr_db > logits4.sqnr_db + 6
    assert logits8.values == comparison.evaluation.label_tokens * 128
    assert 0 < int4.token_agreement <= int8.token_agreement <= 1
    assert [len(candidate.layers) for candidate in (int8, int4)] == [8, 8]


def test_shares_of_experts_are_those_of_all_tokens(comparison, int8):
    tokens = [sum(layer.tokens) for layer in comparison.baseline.coverage]
    whole = sum(layer.share * count for layer, count in zip(int8.experts, tokens, strict=True)) / sum(tokens)
    assert int8.expert_agreement == pytest.approx(whole)


def test_a_step_for_each_position(comparison, int8, corpus):
    assert len(int8.steps) == max(example.targets.size for example in corpus.examples)
    assert all(math.isfinite(step) for step in int8.steps)


def test_it_is_the_same_again(quantized_bundle, corpus, comparison):
    subject = open_subject(quantized_bundle)
    again = compare_bundle(
        subject, corpus, survey(subject, corpus, ["evaluation.json"]), Settings(layers=True, batch_size=3, generated=0)
    )
    for one, other in zip(comparison.candidates, again.candidates, strict=True):
        assert one.loss_increase.value == pytest.approx(other.loss_increase.value, abs=1e-3)
        assert one.token_agreement == other.token_agreement
        assert other.generations == ()
    assert again.baseline.ms_per_token is None


def test_json_holds_everything(comparison):
    document = json.loads(comparison.to_json())
    assert document["baseline"]["loss"]["value"] == comparison.baseline.loss.value
    assert [candidate["variant"]["name"] for candidate in document["candidates"]] == ["fused-int8", "fused-int4"]
    assert document["evaluation"]["sha256"] == comparison.evaluation.sha256
    assert set(document["versions"]) == {"pointsman", "onnxruntime", "polygraphy", "numpy"}


def test_the_table_names_everything(comparison):
    text = as_text(comparison)
    for words in ("fused-float32", "fused-int8", "fused-int4", "decoder.block.3", "10 documents"):
        assert words in text
    assert "FAILED" not in text
    assert (
        f"fused-int4 was calibrated on 6 others (sha256 {comparison.candidates[1].variant.calibration.sha256[:12]})"
        in text
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


def test_non_finite_values_are_found_where_they_are():
    given = {"encoder.block.0.non_finite": np.array(2), "logits": np.array([[1.0, np.nan], [np.inf, 0.0]])}
    assert list(non_finite(given)) == [NonFinite(name="encoder.block.0", values=2), NonFinite(name="logits", values=2)]
    assert list(non_finite({"logits": np.zeros((1, 2)), "x.non_finite": np.array(0)})) == []


class Poisoned:
    """A runner of Polygraphy's kind whose logits are not finite from its second batch on."""

    def __init__(self, inner):
        self.inner, self.name, self.calls = inner, inner.name, 0

    def __enter__(self):
        self.inner.__enter__()
        return self

    def __exit__(self, *error):
        self.inner.__exit__(*error)

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def infer(self, feed_dict):
        outputs = self.inner.infer(feed_dict)
        self.calls += 1
        if self.calls > 1:
            outputs["logits"][0, 0] = np.nan
        return outputs


@pytest.fixture
def runners(quantized_bundle):
    manifest = read_manifest(quantized_bundle)
    return [
        TeacherForcingRunner(quantized_bundle, name, manifest.variants[name], manifest.architecture)
        for name in ("fused-float32", "fused-int8")
    ]


def tallied(runners, corpus, quantized_bundle):
    architecture = read_manifest(quantized_bundle).architecture
    return tally_all(
        runners, lambda: corpus.batches(architecture, 4), num_experts=architecture.num_experts, progress=int
    )


def test_a_candidate_that_overflows(runners, corpus, quantized_bundle):
    (baseline, candidate), _ = tallied([runners[0], Poisoned(runners[1])], corpus, quantized_bundle)
    assert baseline.non_finite == ()
    assert candidate.non_finite == (NonFinite(name="logits", values=1),)
    assert len(baseline.losses.sums) == 10


def test_a_baseline_that_overflows(runners, corpus, quantized_bundle):
    line = r"the baseline fused-float32 gives values that are not finite \(1 of logits\); compare with a float32"
    with pytest.raises(ParityError, match=line):
        tallied([Poisoned(runners[0]), runners[1]], corpus, quantized_bundle)


def test_generations_are_compared_up_to_the_first_difference():
    one = {"greedy": [(1, 2, 3, 4), (5, 6)], "4 beams": [(1,), (2,)]}
    other = {"greedy": [(1, 2, 9, 4), (5, 6)], "4 beams": [(1,), (2,)]}
    greedy, beams = agreement(one, other)
    assert (greedy.search, greedy.documents, greedy.identical) == ("greedy", 2, 1)
    assert greedy.prefix == pytest.approx(4 / 6)
    assert (beams.identical, beams.prefix) == (2, 1.0)

"""A whole comparison of a small bundle: what it says of variants, in figures, JSON and tables."""

import inspect
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from pointsman.bundle import read_manifest
from pointsman.errors import CorpusError, OptionsError, ParityError
from pointsman.model import SwitchModel
from pointsman_calib.comparison import Comparison, compare
from pointsman_calib.comparison.table import as_text


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
        assert variant.speed.ms_to_first_token > variant.speed.ms_per_token > 0
        assert len(variant.speed.ms_per_token_of_rounds) == 3
        assert variant.speed.tokens == 3 * 2 * 16  # turns, documents, tokens
    assert (float32.calibration, int8.calibration, int4.calibration.documents) == (None, None, 6)
    assert (float32.rounding, int8.rounding, int4.rounding) == (None, "nearest", "GPTQ")
    assert comparison.evaluation.documents == 10


def test_how_variants_were_quantized(comparison, quantized_bundle):
    float32, int8, int4 = comparison.baseline, *(candidate.variant for candidate in comparison.candidates)
    quantization = read_manifest(quantized_bundle).variants["fused-int4"].quantization
    assert (float32.quantized, float32.kept, float32.sensitivity) == (0, (), None)
    assert (int8.quantized, int8.kept, int8.sensitivity) == (len(quantization.formats), (), None)
    assert (int4.quantized, int4.sensitivity) == (len(quantization.formats), quantization.sensitivity)
    document = json.loads(comparison.to_json())["candidates"][1]["variant"]
    assert document["sensitivity"]["nearest"]["agreement"] == quantization.sensitivity.nearest.agreement
    assert document["calibrated_experts"]["thin"] == int4.calibrated_experts.thin


def test_the_table_says_what_was_kept_in_float(comparison):
    int8, int4 = comparison.candidates
    found = replace(int4.variant.sensitivity, costs={"decoder.block.3": 0.2, "b": 0.1, "c": 0.0, "d": 0.0})
    variant = replace(int4.variant, sensitivity=found, kept=("lm_head.weight",))
    qdq = replace(int8, variant=replace(int8.variant, precision="int8-qdq"))
    text = as_text(replace(comparison, candidates=(qdq, replace(int4, variant=variant))))
    (row,) = (line for line in text.splitlines() if line.startswith("fused-int4") and "GPTQ" in line)
    experts = variant.calibrated_experts
    assert f"  0                    1         {experts.thin} of 32 rounded to nearest" in row
    (reached,) = (line for line in text.splitlines() if line.startswith("fused-int4") and line.count(", ") == 4)
    assert reached.endswith(f", {found.nearest.agreement:.2%}, {found.nearest.expert_agreement:.2%}")
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


def test_quantized_variants_are_beside_the_baseline_but_not_it(comparison):
    int8, int4 = comparison.candidates
    logits8, logits4 = int8.outputs[-1], int4.outputs[-1]
    assert (logits8.name, logits4.name) == ("logits", "logits")
    for candidate in (int8, int4):
        assert all(5 < errors.sqnr_db < 60 for errors in (*candidate.outputs, *candidate.layers))
    assert logits8.values == comparison.evaluation.label_tokens * 128
    assert all(0.5 < candidate.token_agreement <= 1 for candidate in (int8, int4))
    assert [len(candidate.layers) for candidate in (int8, int4)] == [8, 8]


def test_shares_of_experts_are_those_of_all_tokens(comparison, int8):
    tokens = [sum(layer.tokens) for layer in comparison.baseline.coverage]
    whole = sum(layer.share * count for layer, count in zip(int8.experts, tokens, strict=True)) / sum(tokens)
    assert int8.expert_agreement == pytest.approx(whole)


def test_a_step_for_each_position(comparison, int8, corpus):
    assert len(int8.steps) == max(example.targets.size for example in corpus.examples)
    assert all(math.isfinite(step) for step in int8.steps)


def test_it_is_the_same_again(quantized_bundle, corpus, comparison):
    """In batches of another size, whose padding must not count."""
    again = compare(quantized_bundle, corpus, batch_size=3, generations=0)
    for one, other in zip(comparison.candidates, again.candidates, strict=True):
        assert one.loss_increase.value == pytest.approx(other.loss_increase.value, abs=1e-3)
        assert one.token_agreement == other.token_agreement
        assert one.variant.coverage == other.variant.coverage
        assert (other.layers, other.generations) == ((), ())
    assert (again.baseline.speed, again.baseline.footprint, again.passages) == (None, None, ())
    assert comparison.evaluation == again.evaluation


def test_a_candidate_that_overflows(overflowing, corpus):
    found = compare(overflowing, corpus, candidates=["fused-int8"], generations=1)
    (int8,) = found.candidates
    assert not found.passed
    assert (int8.variant.loss, int8.variant.speed, int8.outputs, int8.generations) == (None, None, (), ())
    assert int8.failures[0].startswith("values are not finite: ")
    assert found.baseline.loss is not None
    assert found.baseline.speed.ms_per_token > 0
    assert [*found.passages[0].fills] == ["fused-float32"]
    assert "FAILED fused-int8: values are not finite: " in as_text(found)


def test_a_baseline_that_overflows(overflowing, corpus):
    with pytest.raises(ParityError, match="the baseline fused-int8 gives values that are not finite"):
        compare(overflowing, corpus, baseline="fused-int8", candidates=["fused-float32"])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"batch_size": 0}, "batch_size is 0; give 1 or more"),
        ({"generations": -1}, "generations is -1; give 0 or more"),
    ],
)
def test_numbers_out_of_range(quantized_bundle, corpus, options, line):
    with pytest.raises(OptionsError, match=line):
        compare(quantized_bundle, corpus, **options)


def test_a_corpus_that_is_still_to_be_read(quantized_bundle, evaluation_file, tmp_path):
    """It is read with the default window, for which the small vocabulary has too few sentinels."""
    with pytest.raises(OptionsError, match="568 tokens need 29 sentinels and the vocabulary has 20"):
        compare(quantized_bundle, evaluation_file)
    with pytest.raises(CorpusError, match="there is no file "):
        compare(quantized_bundle, [tmp_path / "c4.json"])


def test_the_function_as_it_is_documented(comparison):
    parameters = inspect.signature(compare).parameters
    assert [*parameters] == [
        "bundle", "corpus", "baseline", "candidates", "limits", "layers", "batch_size", "generations", "device",
        "counter",
    ]  # fmt: skip
    assert isinstance(comparison, Comparison)
    assert comparison.passed


def test_passages_are_filled_by_each_variant(comparison):
    assert len(comparison.passages) == 2
    for passage in comparison.passages:
        assert [*passage.fills] == ["fused-float32", "fused-int8", "fused-int4"]
        assert {len(fills) for fills in passage.fills.values()} == {len(passage.original)}


def test_json_holds_everything(comparison):
    document = json.loads(comparison.to_json())
    assert document["baseline"]["loss"]["value"] == comparison.baseline.loss.value
    assert [candidate["variant"]["name"] for candidate in document["candidates"]] == ["fused-int8", "fused-int4"]
    assert document["evaluation"]["sha256"] == comparison.evaluation.sha256
    assert set(document["limits"]) == {"max_loss_increase", "min_agreement", "min_expert_agreement", "min_sqnr"}
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


def test_tables_fit_a_terminal(comparison):
    """None is wider than the one of costs."""
    lines = as_text(comparison).partition("\nbeside ")[0].splitlines()
    assert max(len(line) for line in lines if line.startswith(("fused", "quantization", "on the"))) < 125

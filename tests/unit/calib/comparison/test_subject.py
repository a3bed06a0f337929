"""Which variants are compared, and on what: choices, and the lines that a wrong one is answered with."""

from dataclasses import replace

import pytest

from pointsman.bundle import read_manifest, write_manifest
from pointsman.errors import BundleError, CorpusError, DeviceError, OptionsError
from pointsman_calib.comparison.subject import calibrated_on, choose_variants, open_subject, survey
from pointsman_calib.corpus.text import Corpus


@pytest.fixture(scope="module")
def manifest(quantized_bundle):
    """The small bundle's, with the variants that other exports would have added."""
    there = read_manifest(quantized_bundle)
    fused = there.variants["fused-float32"]
    more = {
        "portable-float32": replace(fused, form="portable"),
        "fused-bfloat16": replace(fused, precision="bfloat16"),
    }
    return replace(there, variants=there.variants | more)


def holding(manifest, *names):
    return replace(manifest, variants={name: manifest.variants[name] for name in names})


@pytest.mark.parametrize(
    ("baseline", "candidates", "chosen"),
    [
        (None, [], ("fused-float32", ("fused-int8", "fused-int4", "portable-float32"))),
        (None, ["fused-int4"], ("fused-float32", ("fused-int4",))),
        ("fused-int8", [], ("fused-int8", ("fused-float32", "fused-int4", "portable-float32"))),
        ("portable-float32", ["fused-int8", "fused-int4"], ("portable-float32", ("fused-int8", "fused-int4"))),
    ],
)
def test_choices(manifest, baseline, candidates, chosen):
    assert choose_variants(manifest, baseline, candidates) == chosen


@pytest.mark.parametrize(
    ("baseline", "candidates", "error", "line"),
    [
        ("int8", [], BundleError, "the bundle has no variant 'int8'; it has fused-float32, fused-int8, "),
        (None, ["fused-int2"], BundleError, "the bundle has no variant 'fused-int2'; it has fused-float32, "),
        (None, ["fused-bfloat16"], DeviceError, "compare another variant than fused-bfloat16"),
        (None, ["fused-float32"], OptionsError, "compared once, with baseline fused-float32; name other candidates"),
        (None, ["fused-int8", "fused-int8"], OptionsError, "each variant is compared once, with baseline fused-float"),
    ],
)
def test_choices_that_cannot_be(manifest, baseline, candidates, error, line):
    with pytest.raises(error, match=line):
        choose_variants(manifest, baseline, candidates)


def test_a_bundle_without_a_float_variant(manifest):
    with pytest.raises(BundleError, match=r"can be a baseline \(there are fused-int8\); export a float32 one"):
        choose_variants(holding(manifest, "fused-int8"), None, [])


def test_a_bundle_with_one_variant(manifest):
    with pytest.raises(BundleError, match=r"no variant to compare with fused-float32; add one with `pointsman-calib"):
        choose_variants(holding(manifest, "fused-float32", "fused-bfloat16"), None, [])


def test_what_a_variant_was_calibrated_on(manifest, calibration_file, quantized_bundle):
    read = Corpus.read(quantized_bundle, [calibration_file], documents=6, window=256)
    assert calibrated_on(manifest.variants["fused-int4"]).sha256s == {e.document_sha256 for e in read.examples}
    assert len(calibrated_on(manifest.variants["fused-int8"])) == 0
    assert len(calibrated_on(manifest.variants["fused-float32"])) == 0


def test_a_survey(quantized_bundle, corpus, evaluation_file):
    evaluation = survey(open_subject(quantized_bundle), corpus)
    assert (evaluation.sources, evaluation.documents, evaluation.window) == ((str(evaluation_file),), 10, 256)
    assert evaluation.source_tokens == sum(example.inputs.size for example in corpus.examples)
    assert evaluation.span_tokens < evaluation.label_tokens


@pytest.mark.parametrize(("candidates", "refused"), [([], True), (["fused-int4"], True), (["fused-int8"], False)])
def test_text_that_was_calibrated_on_is_refused(quantized_bundle, calibration_file, candidates, refused):
    subject = open_subject(quantized_bundle, candidates=candidates)
    corpus = Corpus.read(quantized_bundle, [calibration_file], documents=2, window=256)
    if not refused:
        assert survey(subject, corpus).documents == 2
        return
    with pytest.raises(CorpusError, match="2 of 2 evaluation documents were calibrated on; evaluate on other files"):
        survey(subject, corpus)


def test_a_damaged_variant_is_noticed_before_it_is_run(quantized_bundle, tmp_path):
    place = tmp_path / "bundle"
    place.mkdir()
    manifest = read_manifest(quantized_bundle)
    write_manifest(manifest, place)
    with pytest.raises(BundleError, match=r"is damaged: .*fused\.encoder\.onnx is missing"):
        open_subject(place)

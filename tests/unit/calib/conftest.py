"""A small bundle with quantized variants, and text that its vocabulary knows."""

import shutil
from pathlib import Path

import pytest
from text import SENTENCES, write_c4

from pointsman_calib import Comparison, Corpus, CoverageRule, Limits, compare, quantize

WINDOW = 256  # tokens; the tiny vocabulary has too few sentinels for 512


@pytest.fixture(scope="session")
def evaluation_file(tmp_path_factory) -> Path:
    """Ten documents of one to four sentences."""
    texts = [" ".join(SENTENCES[6 * n : 6 * n + 1 + n % 4]) for n in range(10)]
    return write_c4(tmp_path_factory.mktemp("corpus") / "evaluation.json", texts)


@pytest.fixture(scope="session")
def calibration_file(tmp_path_factory) -> Path:
    """Six other documents."""
    texts = [" ".join(SENTENCES[9 * n + 1 : 9 * n + 4]) for n in range(6)]
    return write_c4(tmp_path_factory.mktemp("corpus") / "calibration.json", texts)


@pytest.fixture(scope="session")
def quantized_bundle(tiny_bundle, calibration_file, tmp_path_factory) -> Path:
    """The tiny bundle with `fused-int8`, rounded to nearest, and `fused-int4`, rounded for the calibration text."""
    bundle = shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("bundles") / "quantized")
    quantize(bundle, "int8")
    calibration = Corpus.read(bundle, [calibration_file], documents=6, window=WINDOW)
    limits, coverage = Limits(max_loss_increase=100, min_agreement=0), CoverageRule(fewest_tokens=5)
    quantize(bundle, "int4", corpus=calibration, limits=limits, coverage=coverage)
    return bundle


@pytest.fixture(scope="session")
def calibration(quantized_bundle, calibration_file) -> Corpus:
    """What `fused-int4` was rounded for."""
    return Corpus.read(quantized_bundle, [calibration_file], documents=6, window=WINDOW)


@pytest.fixture(scope="session")
def corpus(quantized_bundle, evaluation_file) -> Corpus:
    """The ten documents, as the bundle's model sees them."""
    return Corpus.read(quantized_bundle, [evaluation_file], documents=10, window=WINDOW)


@pytest.fixture(scope="session")
def comparison(quantized_bundle, corpus) -> Comparison:
    """All that can be measured of the small bundle."""
    return compare(quantized_bundle, corpus, layers=True, generations=2)

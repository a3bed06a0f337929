"""What is promised of the demo model's weight-only variants: calibrated on C4, evaluated on other documents of it."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import installed
from pointsman.manifest import read_manifest
from pointsman_calib.corpus import Corpus
from pointsman_calib.documents import DocumentSet, refuse_overlap
from pointsman_calib.piecewise import PiecewiseRun, graph_files
from pointsman_calib.quantize import quantize_bundle
from pointsman_calib.weight_only.scores import score

ROOT = Path(__file__).parents[2]
C4 = ROOT / "../shared/data/c4"
SOURCE = "fused-float32"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not C4.is_dir(), reason="needs ../shared/data/c4")]


@dataclass(frozen=True)
class Bars:
    """What a variant is held to: size and loss increase as parts of float32's, agreement and routing as shares."""

    size: float
    loss_increase: float
    agreement: float
    routing: float


BARS = {"int8": Bars(0.29, 0.003, 0.99, 0.995), "int4": Bars(0.19, 0.015, 0.95, 0.9)}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "bundle"
    model = ROOT / "examples/demo_model"
    subprocess.run([installed("pointsman-export"), "bundle", model, "-o", folder, "--form", "fused"], check=True)
    return folder


@pytest.fixture(scope="module")
def calibration(demo):
    return Corpus.read(demo, [C4 / "c4-train.sample-00000.json.gz"], documents=128)


@pytest.fixture(scope="module")
def evaluation(demo, calibration):
    corpus = Corpus.read(demo, [C4 / "c4-validation.sample-00000.json.gz"], documents=1000)
    refuse_overlap(DocumentSet.of(calibration.examples), DocumentSet.of(corpus.examples))
    return corpus


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("scheme", BARS)
def test_bars(demo, calibration, evaluation, scheme):
    bars, variant = BARS[scheme], quantize_bundle(demo, scheme, corpus=calibration)
    manifest = read_manifest(demo)
    source = manifest.variants[SOURCE]
    assert size(variant) / size(source) <= bars.size
    runs = [run_of(demo, each, evaluation.batches(manifest.architecture)) for each in (source, variant)]
    exact, quantized = map(score, runs)
    assert quantized.increase_over(exact) <= bars.loss_increase
    assert quantized.agreement_with(exact) >= bars.agreement
    assert routed_alike(*runs) >= bars.routing


def size(variant) -> int:
    return sum(file.bytes for file in variant.files)


def run_of(folder, variant, batches) -> PiecewiseRun:
    text = list(batches)
    return PiecewiseRun(graph_files(folder, variant), variant, lambda: text)


def routed_alike(one: PiecewiseRun, other: PiecewiseRun) -> float:
    """Share of tokens, over all sparse layers, that go to the same expert."""
    routers = {
        role: [node.outputs[0].name for node in pieces.graph if node.op_type == "ArgMax"]
        for role, pieces in one.graphs.items()
    }
    same = total = 0
    for (batch, role, ours), (_, _, theirs) in zip(one.values(routers), other.values(routers), strict=True):
        tokens = batch.attention_mask.astype(bool) if role == "encoder" else batch.label_mask
        for name, chosen in ours.items():
            equal = (chosen == theirs[name])[tokens]
            same, total = same + equal.sum(), total + equal.size
    return same / total

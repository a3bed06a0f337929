"""What is promised of the demo model's weight-only variants: calibrated on C4, evaluated on other documents of it.

`pytest -m slow -rP tests/e2e/test_demo_quality.py` prints the figures, of rounding to nearest too.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass

import pytest

from conftest import installed
from places import SHARED_DATA

C4 = SHARED_DATA / "c4"
TRAIN, VALIDATION = (C4 / f"c4-{split}.sample-00000.json.gz" for split in ("train", "validation"))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not C4.is_dir(), reason=f"needs C4 files in {C4}")]


@dataclass(frozen=True)
class Bars:
    """What a variant is held to: its size as a part of float32's, the rest in percent."""

    size: float
    loss_increase: float
    agreement: float
    expert_agreement: float


# An eighth of the demo is its embedding, which is there twice, for look-ups and the head; two fifths are no experts.
BARS = {"int8": Bars(0.32, 0.3, 99, 99.5), "int4": Bars(0.25, 1.5, 95, 90)}


def calib(*arguments) -> str:
    """Run the command; what it said on stdout."""
    command = [installed("pointsman-calib"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    sys.stdout.write(done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=BARS)
def measured(request, demo, tmp_path_factory):
    """A scheme's bars, float32's size, and the scheme's figures when calibrated and when rounded to nearest."""
    found = {}
    for rounding, corpus in (("GPTQ", ("--corpus", TRAIN)), ("nearest", ())):
        bundle = shutil.copytree(demo / "build" / "demo", tmp_path_factory.mktemp(rounding) / "demo")
        sys.stdout.write(calib("quantize", bundle, "--scheme", request.param, *corpus))
        variants = ("--baseline", "fused-float32", "--candidate", f"fused-{request.param}")
        documents = ("--corpus", VALIDATION, "--documents", 1000, "--generations", 0)
        comparison = json.loads(calib("compare", bundle, *variants, *documents, "--json"))
        (found[rounding],) = comparison["candidates"]
        assert found[rounding]["variant"]["rounding"] == rounding
    return BARS[request.param], comparison["baseline"]["bytes"], found["GPTQ"], found["nearest"]


@pytest.mark.timeout(1800)
def test_bars(measured):
    bars, exact, calibrated, _ = measured
    assert calibrated["variant"]["calibration"]["documents"] == 128
    assert calibrated["variant"]["bytes"] / exact <= bars.size
    assert calibrated["loss_increase"]["value"] <= bars.loss_increase
    assert 100 * calibrated["token_agreement"] >= bars.agreement
    assert 100 * calibrated["expert_agreement"] >= bars.expert_agreement


@pytest.mark.timeout(1800)
def test_calibrating_is_better_than_rounding_to_nearest(measured):
    *_, calibrated, nearest = measured
    for share in ("token_agreement", "expert_agreement"):
        assert calibrated[share] > nearest[share]
    assert calibrated["outputs"][-1]["sqnr_db"] > nearest["outputs"][-1]["sqnr_db"]

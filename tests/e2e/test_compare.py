"""The demo bundle quantized and compared through the installed commands."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.serving.browser import browsing, needs_a_browser
from places import EXAMPLES
from pointsman.backends.onnxruntime.weights.saturation import products_saturate

BIN = Path(sys.executable).parent
DATA = EXAMPLES / "data"
UNSEEN = DATA / "c4-sample-validation.json.gz"


def calib(*arguments):
    return subprocess.run(
        [BIN / "pointsman-calib", *map(str, arguments)],
        capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def bundle(quantized):
    """The demo bundle with int8 weights, rounded to nearest."""
    return quantized / "build" / "demo"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the comparison writes."""
    return tmp_path_factory.mktemp("compared")


@pytest.fixture(scope="module")
def compared(bundle, folder):
    """What one run with all outputs and limits that hold left behind."""
    return calib(
        "compare", bundle, "--candidate", "portable-float32", "fused-int8", "--corpus", UNSEEN, "--documents", 6,
        "--generations", 2, "--json", "--report", folder / "report.html", "--commands", folder / "commands",
        "--max-loss-increase", 2, "--min-agreement", 95, "--min-expert-agreement", 95, "--min-sqnr", 25,
    )  # fmt: skip


def test_the_figures(compared):
    assert compared.returncode == 0, compared.stderr
    document = json.loads(compared.stdout)
    portable, int8 = document["candidates"]
    assert document["evaluation"]["documents"] == 6
    assert (portable["token_agreement"], portable["expert_agreement"]) == (1.0, 1.0)
    assert portable["outputs"][-1]["sqnr_db"] > 100
    assert 0.2 < int8["variant"]["bytes"] / document["baseline"]["bytes"] < 0.31
    assert abs(int8["loss_increase"]["value"]) < 2
    assert [len(layer["tokens"]) for layer in document["baseline"]["coverage"]] == [8, 8, 8, 8]
    assert int8["generations"][0]["documents"] == 2


def test_the_tables_are_beside_them(compared):
    assert "documents (sha256 " in compared.stderr
    assert re.search(r"^fused-int8 +\d+\.\d MB \(0\.\d{2}x\)", compared.stderr, re.MULTILINE)


def test_the_page(compared, folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 5
    assert "demo_model: its variants compared" in page
    assert "All limits hold" in page


@needs_a_browser
def test_tables_fit_a_window_of_1400_pixels(compared, folder, tmp_path):
    """Neither the page nor one of its tables scrolls sideways, all details opened."""
    with browsing(tmp_path / "profile") as window:
        window.resize(1400, 900)
        window.open((folder / "report.html").as_uri())
        window.run("document.querySelectorAll('details').forEach(one => one.open = true)")
        widths = window.run(
            "return [document.documentElement, ...document.querySelectorAll('.wide')]"
            ".map(one => [one.scrollWidth, one.clientWidth])"
        )
    assert 1300 < widths[0][1] <= 1400
    assert len(widths) > 15
    assert [found for found in widths if found[0] > found[1]] == []


def test_a_written_command(compared, folder):
    *_, last, _ = (folder / "commands" / "commands.sh").read_text().splitlines()
    variant = "float32" if products_saturate() else "int8"  # Polygraphy cannot ask for exact products
    assert re.search(rf"/{variant}/\w+\.decoder\.onnx", last)
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", last.removesuffix(" || failed=1")],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "Pass Rate: 100.00%" in done.stdout


def test_a_limit_that_does_not_hold(bundle):
    done = calib(
        "compare", bundle, "--candidate", "fused-int8", "--corpus", UNSEEN, "--generations", 0, "--documents", 4,
        "--min-sqnr", 90,
    )  # fmt: skip
    assert done.returncode == 1
    assert re.search(r"^FAILED fused-int8: the logits' signal is .* dB above the error", done.stdout, re.MULTILINE)
    assert "Traceback" not in done.stderr


def test_a_mistake_is_one_line(bundle):
    done = calib("compare", bundle, "--candidate", "fused-int2", "--corpus", UNSEEN)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("pointsman-calib: the bundle has no variant 'fused-int2'; it has ")

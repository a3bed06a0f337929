"""The command lines that a comparison writes, run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pointsman.backends.onnxruntime.weights.saturation import products_saturate
from pointsman.bundle import read_manifest
from pointsman.errors import DeviceError, OutputExistsError
from pointsman_calib.comparison import polygraphy_commands
from pointsman_calib.comparison.polygraphy_commands import COMMANDS, write_commands


@pytest.fixture(scope="module")
def document(quantized_bundle, corpus):
    return next(corpus.batches(read_manifest(quantized_bundle).architecture, 1))


@pytest.fixture(scope="module")
def variants(quantized_bundle):
    known = read_manifest(quantized_bundle).variants
    return {name: known[name] for name in ("fused-float32", "fused-int8")}


needs_exact_products = pytest.mark.skipif(
    products_saturate(), reason="without VNNI, Polygraphy cannot run quantized graphs as Pointsman does"
)


@pytest.fixture(scope="module")
def script(quantized_bundle, variants, document, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison") / "commands"
    write_commands(folder, quantized_bundle, variants, document)
    return (folder / COMMANDS).read_text()


def run(script, folder):
    """Run it without the baseline's lines, which take as long."""
    kept = [line for line in script.splitlines() if "/variants/float32/" not in line]
    (folder / COMMANDS).write_text("\n".join(kept))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["sh", folder / COMMANDS], env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )


@needs_exact_products
def test_a_line_for_each_graph(script):
    assert script.startswith("#!/bin/sh\n")
    assert (
        "# this was written: a line that fails shows a change, and one that passes says nothing of quality." in script
    )
    lines = [line for line in script.splitlines() if line.startswith("polygraphy")]
    assert [re.search(r"variants/(\S+)\.onnx", line)[1] for line in lines] == [
        "float32/fused.encoder", "int8/fused.encoder", "float32/fused.decoder", "int8/fused.decoder"
    ]  # fmt: skip


@needs_exact_products
def test_the_lines_pass(script, tmp_path):
    done = run(script, tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for output in ("cross_key.3", "logits", "present_value.3"):
        assert re.search(rf"PASSED \| Output: '{output}' \| Difference is within tolerance", done.stdout)
        assert f"PASSED | Output: {output} is valid" in done.stdout


@needs_exact_products
def test_a_line_that_fails_stops_no_other(script, tmp_path):
    done = run(re.sub(r"cross_key\.3:\S+", "cross_key.3:1e-9", script), tmp_path)
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    assert "FAILED | Output: 'cross_key.3'" in done.stdout
    assert "PASSED | Output: 'cross_value.3'" in done.stdout
    assert "PASSED | Output: 'logits'" in done.stdout


def test_none_for_what_saturates(quantized_bundle, variants, document, tmp_path, monkeypatch):
    monkeypatch.setattr(polygraphy_commands, "products_saturate", lambda: True)
    write_commands(tmp_path / "commands", quantized_bundle, variants, document)
    lines = [line for line in (tmp_path / "commands" / COMMANDS).read_text().splitlines() if line.startswith("poly")]
    assert [re.search(r"variants/(\S+)\.onnx", line)[1] for line in lines] == [
        "float32/fused.encoder", "float32/fused.decoder"
    ]  # fmt: skip
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["sh", "-c", lines[1].removesuffix(" || failed=1")], env=os.environ | {"PATH": path}, check=True)
    quantized_first = dict(reversed(variants.items()))
    with pytest.raises(DeviceError, match=r"fused-int8 is quantized, .*; compare with a float variant"):
        write_commands(tmp_path / "others", quantized_bundle, quantized_first, document)


def test_an_unwritten_folder_only(quantized_bundle, variants, document, tmp_path):
    with pytest.raises(OutputExistsError, match="is there already; name a new one"):
        write_commands(tmp_path, quantized_bundle, variants, document)

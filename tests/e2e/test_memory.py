"""The memory that `pointsman inspect` speaks of, beside what processes take and what the benchmark measured."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from checkpoints import Spec, write_checkpoint
from places import ROOT
from pointsman.bundle import read_manifest
from pointsman.inspection import memory
from pointsman_export.bundle import export_bundle

VARIANT = "fused-float32"
PROGRAM = """if True:
    import sys
    from pathlib import Path
    from pointsman import DecodingOptions, SwitchModel

    bundle, inputs, tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    model = SwitchModel.load(bundle, device="cpu", variant="fused-float32", threads=1)
    model.generate([[5] * tokens] * inputs, DecodingOptions(max_new_tokens=3, min_new_tokens=3))
    print(Path("/proc/self/status").read_text())  # ru_maxrss would count what this process was forked from
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    """A bundle whose tokens have keys and values of 64 kB, and whose weights are next to nothing."""
    folder = tmp_path_factory.mktemp("wide")
    spec = Spec(num_heads=32, d_kv=64, encoder_layers=1, decoder_layers=4)
    write_checkpoint(folder / "checkpoint", spec, tokenizer=True)
    export_bundle(folder / "checkpoint", folder / "bundle", forms=["fused"])
    return folder / "bundle"


def peak(bundle: Path, inputs: int, tokens: int) -> int:
    """The largest resident memory of a process that fills so many inputs, in bytes."""
    command = [sys.executable, "-c", PROGRAM, str(bundle), str(inputs), str(tokens)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(re.findall(r"^VmHWM:\s+(\d+) kB$", printed, re.MULTILINE)[0]) * 1024


@pytest.mark.parametrize("inputs", [1, 128])
def test_tokens(wide, inputs):
    """A cache has room for 32 tokens from the first on."""
    manifest = read_manifest(wide)
    assert manifest.architecture.token_bytes == 1 << 16
    estimate = memory(manifest, VARIANT, inputs=inputs, source=32, rows=inputs, target=32)
    assert estimate == pytest.approx(peak(wide, inputs, 32), rel=0.3)


def test_weights(demo):
    bundle = demo / "build/demo"
    assert memory(read_manifest(bundle), VARIANT) == pytest.approx(peak(bundle, 1, 8), rel=0.3)


def test_the_size_of_switch_base_8():
    """Each variant's size and what `_LIBRARIES` says, beside the peak of all of the benchmark's requests."""
    results = json.loads((ROOT / "benchmarks/results/decode-xeon-avx512_vnni-amx.json").read_text(encoding="utf-8"))
    others = ("transformers", "ctranslate2")
    measured = {name: run for name, run in results["contestants"].items() if not name.startswith(others)}
    assert len(measured) == 5
    for run in measured.values():
        assert 0.6 * run["peak_bytes"] < run["bytes"] + 100_000_000 < run["peak_bytes"]

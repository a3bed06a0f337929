"""The `int8-qdq` variant of the demo model at full length: what it loses on C4, and what observing ranges takes."""

import re
import shutil
import subprocess
import sys

import pytest

from conftest import installed
from places import SHARED_DATA

C4 = SHARED_DATA / "c4"
TRAIN, VALIDATION = (C4 / f"c4-{split}.sample-00000.json.gz" for split in ("train", "validation"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not C4.is_dir(), reason=f"needs C4 files in {C4}"),
]


def calib(*arguments):
    command = [installed("pointsman-calib"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_loss_and_the_tokens_stay_within_the_limits(demo, tmp_path):
    bundle = shutil.copytree(demo / "build" / "demo", tmp_path / "demo")
    calib("quantize", bundle, "--scheme", "int8-qdq", "--corpus", TRAIN)
    variants = ("--baseline", "portable-float32", "--candidate", "portable-int8-qdq")
    documents = ("--corpus", VALIDATION, "--documents", 156, "--too-long", "cut", "--generations", 0)
    calib("compare", bundle, *variants, *documents, "--max-loss-increase", 1, "--min-agreement", 97)


def peak_memory(bundle, documents, table):
    """Of a process that observes ranges, in kB."""
    code = """if True:
        import sys
        from pathlib import Path
        from pointsman_calib.cli.main import main
        assert main(sys.argv[1:]) == 0
        print(Path("/proc/self/status").read_text())  # ru_maxrss would count what this process was forked from
    """
    arguments = ["ranges", bundle, "--corpus", TRAIN, "--documents", documents, "--too-long", "cut", "-o", table]
    command = [sys.executable, "-c", code, *map(str, arguments)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(re.findall(r"^VmHWM:\s+(\d+) kB$", printed, re.MULTILINE)[0])


def test_memory_does_not_grow_with_the_number_of_documents(demo, tmp_path):
    few, many = (peak_memory(demo / "build" / "demo", count, tmp_path / f"{count}.json") for count in (100, 800))
    assert many < 1.1 * few

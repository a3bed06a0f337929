"""The command lines that a comparison writes, run as they stand there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pointsman.errors import OutputExistsError
from pointsman_calib.comparison.polygraphy_commands import COMMANDS, write_commands
from pointsman_calib.comparison.subject import open_subject


@pytest.fixture(scope="module")
def document(quantized_bundle, corpus):
    return next(corpus.batches(open_subject(quantized_bundle).manifest.architecture, 1))


@pytest.fixture(scope="module")
def folder(quantized_bundle, document, tmp_path_factory):
    place = tmp_path_factory.mktemp("comparison") / "commands"
    subject = open_subject(quantized_bundle, candidates=["fused-int8"])
    write_commands(place, subject.bundle, subject.variants, document)
    return place


def run(command):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-c", command], env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )


def line(folder, variant, side):
    (found,) = (
        line.removesuffix(" || failed=1")
        for line in (folder / COMMANDS).read_text().splitlines()
        if f"/{variant}/" in line and f".{side}.onnx" in line
    )
    return found


def test_a_line_for_each_graph(folder):
    text = (folder / COMMANDS).read_text()
    assert text.startswith("#!/bin/sh\n")
    assert "# this was written: a line that fails tells of a change, and one that passes not of quality." in text
    lines = [line for line in text.splitlines() if line.startswith("polygraphy")]
    assert [re.search(r"variants/(\S+)\.onnx", line)[1] for line in lines] == [
        "float32/fused.encoder", "int8/fused.encoder", "float32/fused.decoder", "int8/fused.decoder"
    ]  # fmt: skip


@pytest.mark.parametrize(("side", "output"), [("encoder", "cross_key.3"), ("decoder", "logits")])
def test_the_line_passes(folder, side, output):
    done = run(line(folder, "int8", side))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert re.search(rf"PASSED \| Output: '{output}' \| Difference is within tolerance", done.stdout)
    assert f"PASSED | Output: {output} is valid" in done.stdout


def test_the_line_fails_where_the_difference_is_larger(folder):
    *words, last = shlex.split(line(folder, "int8", "decoder"))
    assert last.startswith("present_value.3:")
    done = run(shlex.join([*words, "present_value.3:1e-9"]))
    assert done.returncode == 1
    assert "FAILED | Output: 'present_value.3'" in done.stdout
    assert "PASSED | Output: 'logits'" in done.stdout


@pytest.mark.parametrize(("differs", "code"), [(False, 0), (True, 1)])
def test_all_lines_are_run_and_one_that_fails_is_told(folder, tmp_path, differs, code):
    text = (folder / COMMANDS).read_text()
    if differs:
        text = re.sub(r"cross_key\.3:\S+", "cross_key.3:0", text.replace("float32/fused.encoder", "int8/fused.encoder"))
    (tmp_path / COMMANDS).write_text(text)
    done = run(f"sh {tmp_path / COMMANDS}")
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("PASSED | Output: 'logits'") == 2


def test_an_unwritten_folder_only(folder, quantized_bundle, document):
    subject = open_subject(quantized_bundle)
    with pytest.raises(OutputExistsError, match="is there already; name a new folder"):
        write_commands(folder, subject.bundle, subject.variants, document)

"""The README's commands and Python, run as they stand there."""

import re
import shutil
import subprocess
import sys

import pytest

from e2e.readme import COMMANDS, MAKES, PROGRAMS, README, SHOWN, said, sh
from places import ROOT
from pointsman.bundle import read_manifest

NUMBER = re.compile(r"-?\d+\.\d+")


@pytest.fixture(scope="module")
def clone(planned, tmp_path_factory):
    """A folder in which all commands that write into the bundle have been run."""
    return shutil.copytree(planned, tmp_path_factory.mktemp("clone"), symlinks=True, dirs_exist_ok=True)


@pytest.mark.parametrize("command", MAKES)
def test_make_knows(command):
    # Not run: they set up what this test runs in.
    assert sh(command.replace("make ", "make --dry-run --always-make ", 1), ROOT)


@pytest.mark.parametrize(("given", "limits"), [("", re.search(r'`LIMITS="(.+)"`', README)[1]), ("LIMITS= ", "")])
def test_what_make_compare_holds_variants_to(given, limits):
    *_, last = sh(f"make --no-print-directory --dry-run {given}compare", ROOT).splitlines()
    assert last.endswith(f"--report build/comparison.html {limits}")


def test_the_demo_is_exported_first():
    first = next(command for command in COMMANDS if "build/" in command)
    assert first == "pointsman-export bundle examples/demo_model -o build/demo --force"


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(clone, command):
    assert said(clone).get(command) or sh(command, clone)


def test_the_sentence_that_is_shown(clone):
    """To within what kernels of int8 differ by from one processor to the next."""
    shown = next(command for command in COMMANDS if command.startswith("pointsman infill examples/demo_int8 "))
    assert numbers(said(clone).get(shown) or sh(shown, clone)) == pytest.approx(numbers(SHOWN), abs=0.05)
    for command in (shown, shown.replace("examples/demo_int8", "build/demo")):
        assert NUMBER.sub("", sh(command, clone)) == NUMBER.sub("", SHOWN)


def test_make_infill_fills_the_same():
    (text,) = re.findall(r"^TEXT \?= (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert f'pointsman infill examples/demo_int8 "{text}" --num-beams 4' in COMMANDS


def test_the_program_that_comes_first_prints_what_is_said(clone):
    done = subprocess.run([sys.executable, "-c", PROGRAMS[0]], cwd=clone, capture_output=True, text=True, check=True)
    assert f"prints `{done.stdout.strip()}`" in README


def test_the_bundle_in_the_repository_is_of_the_demo_model(demo):
    manifests = (ROOT / "examples/demo_int8", demo / "build/demo")
    ours, exported = (read_manifest(folder) for folder in manifests)
    assert ours.source.sha256 == exported.source.sha256
    assert ours.tokenizer == exported.tokenizer
    assert [*ours.variants] == ["fused-int8"]
    assert sum(file.bytes for file in ours.files()) < 12e6


def numbers(text):
    return [float(found) for found in NUMBER.findall(text)]


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_programs(clone, program):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=clone, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_links_lead_somewhere():
    places = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert places
    assert [place for place in places if not (ROOT / place).exists()] == []


def test_the_table_of_benchmarks_has_its_place():
    assert re.search(r"^<!-- benchmarks:begin -->\n.+^<!-- benchmarks:end -->$", README, re.MULTILINE | re.DOTALL)

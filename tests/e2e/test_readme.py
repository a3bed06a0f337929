"""The README's commands and Python, run as they stand there."""

import re
import shutil
import subprocess
import sys

import pytest

from e2e.readme import COMMANDS, MAKES, PROGRAMS, README, SHOWN, said, sh
from places import ROOT

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
    assert COMMANDS[0] == "pointsman-export bundle examples/demo_model -o build/demo --force"


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(clone, command):
    assert said(clone).get(command) or sh(command, clone)


def test_the_sentence_that_is_shown(clone):
    (text,) = re.findall(r"^TEXT \?= (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    printed = sh(f"pointsman infill build/demo '{text}' --num-beams 4", clone)
    assert NUMBER.sub("", printed) == NUMBER.sub("", SHOWN)
    assert numbers(printed) == pytest.approx(numbers(SHOWN), abs=2e-3)


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

"""The README's commands and Python, run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from places import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for language, block in BLOCKS if language == "sh" for line in block.splitlines()]
(SHOWN,) = (block for language, block in BLOCKS if language == "text" and block.startswith("The "))
PROGRAMS = [block for language, block in BLOCKS if language == "python"]

NUMBER = re.compile(r"-?\d+\.\d+")
ACTIVATE = ". .venv/bin/activate"
EXPORT = "pointsman-export bundle examples/demo_model -o build/demo"


def sh(command, folder):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=os.environ | {"PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def of_kind(kind):
    kinds = {line: "make" if line.startswith("make ") else "shell" for line in COMMANDS if line != ACTIVATE}
    return [line for line in kinds if kinds[line] == kind]


@pytest.mark.parametrize("command", of_kind("make"))
def test_make_knows(command):
    # Not run: they set up what this test runs in.
    assert sh(command.replace("make ", "make --dry-run --always-make ", 1), ROOT)


@pytest.mark.parametrize(("given", "limits"), [("", re.search(r'`LIMITS="(.+)"`', README)[1]), ("LIMITS= ", "")])
def test_what_make_compare_holds_variants_to(given, limits):
    *_, last = sh(f"make --no-print-directory --dry-run {given}compare", ROOT).splitlines()
    assert last.endswith(f"--report build/comparison.html {limits}")


def test_the_demo_is_exported_first():
    assert of_kind("shell")[0] == EXPORT


@pytest.mark.parametrize("command", of_kind("shell")[1:])
def test_commands(demo, command):
    assert sh(command, demo)


def test_the_sentence_that_is_shown(demo):
    (text,) = re.findall(r"^TEXT \?= (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    printed = sh(f"pointsman infill build/demo '{text}' --num-beams 4", demo)
    assert NUMBER.sub("", printed) == NUMBER.sub("", SHOWN)
    assert numbers(printed) == pytest.approx(numbers(SHOWN), abs=2e-3)


def numbers(text):
    return [float(found) for found in NUMBER.findall(text)]


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_programs(demo, program):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=demo, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_links_lead_somewhere():
    places = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert places
    assert [place for place in places if not (ROOT / place).exists()] == []


def test_the_table_of_benchmarks_has_its_place():
    assert re.search(r"^<!-- benchmarks:begin -->\n.+^<!-- benchmarks:end -->$", README, re.MULTILINE | re.DOTALL)

"""What the project's files say of each other: pins, versions, and the map in docs/architecture.md."""

import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from places import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINS = {
    name.lower().replace("_", "-"): Version(version)
    for name, version in re.findall(
        r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
}
NOT_ON_CI = {"onnxruntime-gpu", "tensorrt"}  # takes the place of onnxruntime; lies in NVIDIA's own index
ASKED_FOR = [
    Requirement(line)
    for line in itertools.chain(
        PROJECT["build-system"]["requires"],
        PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"].values(),
        *PROJECT["dependency-groups"].values(),
    )
]


def test_constraints_hold_pins_and_nothing_else():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("# ") and not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    assert len(PINS) == sum(not line.startswith("#") for line in lines)


@pytest.mark.parametrize("requirement", ASKED_FOR, ids=str)
def test_what_is_asked_for_is_pinned(requirement):
    if requirement.name not in NOT_ON_CI:
        assert PINS[requirement.name.lower()] in requirement.specifier


def test_one_version():
    version = PROJECT["project"]["version"]
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == version
    cited = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert cited == [version]
    command = [Path(sys.executable).with_name("pointsman"), "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"pointsman {version}\n"


@pytest.mark.parametrize("package", ["runtime/pointsman", "export/pointsman_export", "calib/pointsman_calib"])
def test_the_map_shows_every_module(package):
    after = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").split(f"\n{package}/\n")[1]
    section = re.split(r"\n\n|```", after)[0]
    shown = set(re.findall(r"^ +(\w+(?:\.py|/))", section, re.MULTILINE))
    folder = ROOT / package
    modules = {path.name for path in folder.glob("*.py")} - {"__init__.py"}
    packages = {f"{path.parent.name}/" for path in folder.glob("*/__init__.py")}
    assert shown == modules | packages

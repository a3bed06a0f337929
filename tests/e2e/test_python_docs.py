"""The programs in docs/python.md, run one after the other as they stand there."""

import re
import subprocess
import sys

import pytest

from places import ROOT

DOCUMENT = (ROOT / "docs/python.md").read_text(encoding="utf-8")
PROGRAMS = {
    section.partition("\n")[0]: "".join(re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))
    for section in DOCUMENT.split("\n## ")[1:]
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where they run: each goes on with what those before it made."""
    place = tmp_path_factory.mktemp("programs")
    (place / "examples").symlink_to(ROOT / "examples")
    return place


@pytest.mark.parametrize("section", PROGRAMS)
def test_programs(folder, section):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAMS[section]],  # libraries of others warn
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout

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


@pytest.mark.parametrize("section", PROGRAMS)
def test_programs(tmp_path, section):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAMS[section]],  # libraries of others warn
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout

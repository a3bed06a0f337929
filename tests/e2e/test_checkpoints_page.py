"""The commands of docs/checkpoints.md, run as they stand there on a checkpoint that T5X wrote."""

import re
import shutil
import subprocess

import pytest

from conftest import installed
from places import ROOT
from t5x_checkpoints import SPIECE, unpack

PAGE = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(tmp_path, command):
    original = unpack("relu_tied", tmp_path / "unpacked")
    shutil.move(original.folder, tmp_path)
    shutil.copyfile(SPIECE, tmp_path / "spiece.model")
    program, *arguments = command.split()
    done = subprocess.run([installed(program), *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "note: T5X has no capacity for a sequence: experts accept every token (--capacity none)\n" in done.stderr
    filled = subprocess.run(
        [installed("pointsman"), "infill", "switch", "The <extra_id_0> walks."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert filled.returncode == 0, filled.stderr


def test_there_is_a_command():
    assert len(COMMANDS) == 1

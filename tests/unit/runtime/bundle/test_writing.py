"""Folders appear whole or not at all, whoever else writes the same one and whatever the file system can do."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from pointsman.bundle.writing import replacing
from pointsman.errors import OutputError


def write(target: Path, text: str) -> None:
    with replacing(target) as folder:
        (folder / "file").write_text(text)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("prepare", [Path.mkdir, Path.touch, lambda path: write(path, "old")])
def test_what_was_there_is_replaced(tmp_path, prepare):
    prepare(tmp_path / "output")
    write(tmp_path / "output", "new")
    assert (tmp_path / "output" / "file").read_text() == "new"
    assert names_in(tmp_path) == {"output"}


def test_two_that_write_the_same_folder_leave_each_other_alone(tmp_path):
    with replacing(tmp_path / "output") as folder:
        (folder / "file").write_text("later")
        write(tmp_path / "output", "sooner")
        assert (tmp_path / "output" / "file").read_text() == "sooner"
    assert (tmp_path / "output" / "file").read_text() == "later"
    assert names_in(tmp_path) == {"output"}


def test_a_folder_of_the_same_number_that_another_made_stays_when_this_one_fails(tmp_path):
    with patch("secrets.token_hex", return_value="1"), replacing(tmp_path / "output") as folder:
        (folder / "file").touch()
        with pytest.raises(OutputError, match=r"output \(File exists\); free some space or choose another output"):
            write(tmp_path / "output", "never")
    assert names_in(tmp_path / "output") == {"file"}


def test_without_locks_all_goes_well_and_leftovers_stay(tmp_path):
    (tmp_path / ".output.partial-1").mkdir()
    with patch("fcntl.flock", side_effect=OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))):
        write(tmp_path / "output", "new")
    assert names_in(tmp_path) == {"output", ".output.partial-1"}


def test_importing_needs_no_locks():
    subprocess.run(
        [sys.executable, "-c", "import sys; sys.modules['fcntl'] = None; import pointsman.bundle.writing"], check=True
    )

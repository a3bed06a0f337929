"""Folders appear whole or not at all, whoever else writes the same one and whatever the file system can do."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from mounts import mounted
from pointsman.bundle.writing import check_room, check_writable, is_vacant, replacing, what_to_do, whole_file
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


def write_file(target: Path, text: str) -> None:
    with whole_file(target) as path:
        path.write_text(text)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    write_file(tmp_path / "output", "old")

    def fail(text: str) -> None:
        with whole_file(tmp_path / "output") as path:
            path.write_text(text)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail("half")
    assert (tmp_path / "output").read_text() == "old"
    write_file(tmp_path / "output", "new")
    assert (tmp_path / "output").read_text() == "new"
    assert names_in(tmp_path) == {"output"}


def test_two_that_write_the_same_file_leave_each_other_alone(tmp_path):
    with whole_file(tmp_path / "output") as path:
        path.write_text("later")
        write_file(tmp_path / "output", "sooner")
        assert (tmp_path / "output").read_text() == "sooner"
    assert (tmp_path / "output").read_text() == "later"
    assert names_in(tmp_path) == {"output"}


def test_a_file_where_none_can_be(tmp_path):
    with pytest.raises(
        OutputError, match=r"^cannot write .*/none/output \(No such file or directory\); choose another"
    ):
        write_file(tmp_path / "none" / "output", "never")


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
        with pytest.raises(OutputError, match=r"output \(File exists\); choose another output folder$"):
            write(tmp_path / "output", "never")
    assert names_in(tmp_path / "output") == {"file"}


def test_without_locks_all_goes_well_and_leftovers_stay(tmp_path):
    (tmp_path / ".output.partial-1").mkdir()
    with patch("fcntl.flock", side_effect=OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))):
        write(tmp_path / "output", "new")
    assert names_in(tmp_path) == {"output", ".output.partial-1"}


def test_a_platform_without_locks(tmp_path):
    """Windows has no module for them."""
    (tmp_path / ".output.partial-1").mkdir()
    with patch.dict(sys.modules, fcntl=None):
        write(tmp_path / "output", "old")
        write(tmp_path / "output", "new")
    assert (tmp_path / "output" / "file").read_text() == "new"
    assert names_in(tmp_path) == {"output", ".output.partial-1"}


def test_importing_needs_no_locks():
    subprocess.run(
        [sys.executable, "-c", "import sys; sys.modules['fcntl'] = None; import pointsman.bundle.writing"], check=True
    )


# Places that cannot be written as others are


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """The root of a mounted disk, which cannot be renamed."""
    (tmp_path / "disk").mkdir()
    with mounted(tmp_path / "disk", "size=1m") as disk:
        (disk / "lost+found").mkdir()
        yield disk


def test_a_mounted_disk_is_filled(disk):
    assert is_vacant(disk)
    check_writable(disk)
    assert names_in(disk) == {"lost+found"}
    write(disk, "new")
    assert (disk / "file").read_text() == "new"
    assert names_in(disk) == {"file", "lost+found"}
    assert not is_vacant(disk)


def test_what_a_mounted_disk_holds_is_replaced(disk):
    write(disk, "old")
    (disk / "folder").mkdir()
    (disk / "folder" / "old").touch()
    (disk / ".partial-0123abcd").mkdir()  # a killed process's
    write(disk, "new")
    assert (disk / "file").read_text() == "new"
    assert names_in(disk) == {"file", "lost+found"}


def test_what_fails_leaves_a_mounted_disk_as_it_was(disk):
    write(disk, "old")
    with (
        pytest.raises(OutputError, match=r"disk \(No space left on device\); free some space or"),
        replacing(disk) as new,
    ):
        (new / "file").write_bytes(bytes(2 << 20))
    assert (disk / "file").read_text() == "old"
    assert names_in(disk) == {"file", "lost+found"}


def test_files_of_the_first_level_appear_last(disk):
    """A manifest is one of them."""
    with replacing(disk) as new:
        (new / "manifest.json").touch()
        (new / "variants").mkdir()
    order: list[str] = []
    rename = Path.rename

    def renamed(self, target):
        order.append(self.name)
        return rename(self, target)

    with patch.object(Path, "rename", renamed), replacing(disk) as new:
        (new / "a-manifest.json").touch()
        (new / "variants").mkdir()
    assert order == ["manifest.json", "variants", "variants", "a-manifest.json"]


def test_a_folder_that_nothing_can_be_made_beside_is_filled(tmp_path):
    """As a container's output folder is, of which all else is read-only."""
    (tmp_path / "root").mkdir()
    with mounted(tmp_path / "root"):
        output = tmp_path / "root" / "output"
        output.mkdir()
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "root")], check=True)
        with mounted(output):
            write(output, "new")
            assert names_in(output) == {"file"}


def test_a_read_only_disk_is_refused_before_anything_is_done(tmp_path):
    (tmp_path / "disk").mkdir()
    with mounted(tmp_path / "disk", "ro") as disk:
        for place in (disk, disk / "output", disk / "deep" / "output"):
            with pytest.raises(OutputError) as raised:
                check_writable(place)
            assert str(raised.value) == f"cannot write {place} (Read-only file system); choose another output folder"


def test_a_full_disk_is_refused_before_anything_is_done(disk):
    with pytest.raises(OutputError) as raised:
        check_room(disk / "output", 2_500_000_000)
    assert str(raised.value) == (
        f"{disk / 'output'} needs 2,500.0 MB and its disk has 1.0 MB free; free some space or choose another output "
        "folder"
    )
    check_room(disk / "output", 1000)
    with pytest.raises(OSError, match="No space left"):
        (disk / "fill").write_bytes(bytes(2 << 20))
    with pytest.raises(OutputError, match=r"output \(No space left on device\); free some space or choose another"):
        check_writable(disk / "output")
    assert names_in(disk) == {"lost+found", "fill"}


def test_trying_leaves_nothing(tmp_path):
    for place in (tmp_path / "output", tmp_path / "deep" / "er" / "output"):
        check_writable(place)
    assert names_in(tmp_path) == set()


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space or choose another output folder"),
        (errno.EDQUOT, "free some space or choose another output folder"),
        (errno.EROFS, "choose another output folder"),
        (errno.ENAMETOOLONG, "choose another output folder"),
        (errno.EACCES, "check its permissions or choose another output folder"),
        (errno.EPERM, "check its permissions or choose another output folder"),
    ],
)
def test_the_advice_fits_what_is_refused(number, advice):
    assert what_to_do(OSError(number, os.strerror(number))) == advice

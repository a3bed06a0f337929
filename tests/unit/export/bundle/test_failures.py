"""A bundle appears whole or not at all: full disks, failed parity, kills."""

import builtins
import errno
import fcntl
import io
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pytest
from spoiling import change, names_in, sentences

from checkpoints import CHECKPOINTS, write_checkpoint
from pointsman.bundle import names, read_manifest, verify_files
from pointsman.errors import OutputError
from pointsman_export.cli.main import main
from pointsman_export.verify import parity
from said import fits

COMMAND = str(Path(sys.executable).with_name("pointsman-export"))


def run(*arguments: object, **options) -> subprocess.CompletedProcess:
    return subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, **options)


@pytest.fixture
def full_disk(monkeypatch):
    """Makes the disk refuse to open a file of some name for writing."""

    def refuse(name: str) -> None:
        for module in (builtins, io):
            monkeypatch.setattr(module, "open", refusing(module.open, name))

    return refuse


def refusing(really_open, name: str):
    def opened(file, mode="r", *arguments, **options):
        if "w" in mode and name in Path(file).name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        return really_open(file, mode, *arguments, **options)

    return opened


@pytest.mark.parametrize(
    "file",
    [names.TOKENIZER_JSON, names.graph_name("fused", "encoder"), names.graph_name("fused", "decoder"), names.MANIFEST],
)
def test_a_full_disk_at_any_stage_leaves_nothing(export, checkpoint, tmp_path, full_disk, file):
    full_disk(file)
    with pytest.raises(OutputError) as raised:
        export(checkpoint, tmp_path / "bundle")
    place = names.MANIFEST if file == names.MANIFEST else f"{tmp_path}/*bundle*"
    assert fits(str(raised.value), f"cannot write {place} (No space left on device); free some space*")
    assert names_in(tmp_path) == set()


LIMIT = 500_000  # bytes of a file


def test_a_file_that_may_not_grow(checkpoint, tmp_path):
    """The kernel itself refuses, as on a full disk: the vocabulary fits, and half of the weights."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))

    done = run("bundle", checkpoint, "-o", tmp_path / "bundle", preexec_fn=limit)
    assert done.returncode == 2
    assert done.stderr == (
        "pointsman-export: cannot write weights.bin (File too large); free some space or choose another output folder\n"
    )
    assert names_in(tmp_path) == set()


def test_a_parity_failure_exits_with_1_and_leaves_nothing(checkpoint, tmp_path, capsys):
    with patch.dict(parity.TOLERANCES, float32=0.0):
        assert main(["bundle", str(checkpoint), "-o", str(tmp_path / "bundle"), "--form", "fused"]) == 1
    (line,) = sentences(capsys)
    assert line.startswith(
        "pointsman-export: the exported fused float32 graphs do not compute what the checkpoint does"
    )
    assert names_in(tmp_path) == set()


def test_values_past_float16_are_named_and_leave_nothing(tmp_path, capsys):
    """The weights fit, and what they make of a text does not."""
    folder = write_checkpoint(tmp_path / "checkpoint", CHECKPOINTS["tied"], tokenizer=True)
    change(**{"encoder.block.0.layer.0.SelfAttention.v.weight": lambda tensor: tensor * 2e4})(folder)
    arguments = ["bundle", str(folder), "-o", str(tmp_path / "bundle"), "--form", "fused", "--dtype", "float16"]
    assert main(arguments) == 1
    assert fits(
        *sentences(capsys),
        "pointsman-export: encoder.block.* is past float16's range in the exported fused graphs; "
        "nothing was written, export in float32 or bfloat16 (--dtype)*",
    )
    assert names_in(tmp_path) == {"checkpoint"}


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_polite_kill_leaves_nothing(checkpoint, tmp_path, number):
    process = halfway(checkpoint, tmp_path)
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "pointsman-export: interrupted; nothing was written"
    assert names_in(tmp_path) == set()


def test_what_a_killed_export_left_is_removed_by_the_next(export, checkpoint, tmp_path):
    process = halfway(checkpoint, tmp_path)
    process.kill()
    process.communicate(timeout=120)
    (left,) = names_in(tmp_path)
    assert left.startswith(".bundle.partial-")
    (tmp_path / ".bundle.partial-alive").mkdir()
    (tmp_path / ".other.partial-1").mkdir()
    lock = os.open(tmp_path / ".bundle.partial-alive", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    export(checkpoint, tmp_path / "bundle")
    os.close(lock)
    others = {".bundle.partial-alive", ".other.partial-1"}
    assert names_in(tmp_path) == {"bundle"} | others, "only what is dead and of this target goes"
    verify_files(tmp_path / "bundle", tuple(read_manifest(tmp_path / "bundle").files()))


@pytest.mark.parametrize("kind", ["partial", "replaced"])
def test_what_a_killed_process_of_the_same_number_left_is_removed_too(export, checkpoint, tmp_path, kind):
    """In a container every process has the same; and a kill between two renames leaves the old bundle elsewhere."""
    (tmp_path / f".bundle.{kind}-{os.getpid()}").mkdir()
    export(checkpoint, tmp_path / "bundle")
    assert names_in(tmp_path) == {"bundle"}


def halfway(checkpoint: Path, folder: Path) -> subprocess.Popen:
    """An export that was stopped while it wrote; it goes on when it is told to."""
    process = subprocess.Popen(
        [COMMAND, "bundle", str(checkpoint), "-o", str(folder / "bundle")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not any(folder.glob(f".bundle.partial-*/{names.weights_file('float32')}")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.001)
    process.send_signal(signal.SIGSTOP)
    assert any(folder.glob(".bundle.partial-*")), "it was faster"
    return process


def test_folders_that_were_made_for_a_bundle_that_failed_are_removed(checkpoint, tmp_path):
    (tmp_path / "there").mkdir()
    with patch.dict(parity.TOLERANCES, float32=0.0):
        assert main(["bundle", str(checkpoint), "-o", str(tmp_path / "there/new/deep/bundle"), "--form", "fused"]) == 1
    assert names_in(tmp_path) == {"there"}
    assert names_in(tmp_path / "there") == set()

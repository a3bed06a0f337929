"""Writing bundles: tensors streamed into one file, and folders that appear whole or not at all."""

import contextlib
import glob
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pointsman.errors import OutputError, PointsmanError

ALIGNMENT = 4096


class TensorFile:
    """An external-data file that tensors are appended to, hashed on the way.

    Attributes:
        size: bytes so far.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Append to `file`, which is empty and open for writing."""
        self.file, self.digest, self.size = file, hashlib.sha256(), 0

    @property
    def sha256(self) -> str:
        """Hex digest of what was written."""
        return self.digest.hexdigest()

    def align(self) -> None:
        """Start the next tensor on a page, so that engines can map it."""
        self.append(memoryview(bytes(-self.size % ALIGNMENT)))

    def append(self, data: memoryview) -> int:
        """Write, and return the offset."""
        offset = self.size
        self.file.write(data)
        self.digest.update(data)
        self.size += data.nbytes
        return offset


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A folder beside `target` to write in, which takes its place when all has gone well and vanishes otherwise.

    What a killed process left behind is removed by the next one that writes the same target.

    Raises:
        OutputError: the disk is full or refuses.
    """
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target, "partial")
        partial.mkdir()
        yield partial
        _swap(partial, target)
        # Not before: killed between its two renames, a swap leaves the old output here and nowhere else.
        _remove_leftovers(target, "replaced")
    except PointsmanError:
        raise
    except OSError as error:
        raise OutputError(
            f"cannot write {target} ({error.strerror or error}); free some space or choose another output folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _swap(partial: Path, target: Path) -> None:
    if not target.exists():
        partial.rename(target)
        return
    old = target.with_name(f".{target.name}.replaced-{os.getpid()}")
    target.rename(old)
    partial.rename(target)
    shutil.rmtree(old) if old.is_dir() else old.unlink()


def _remove_leftovers(target: Path, kind: str) -> None:
    for left in target.parent.glob(f".{glob.escape(target.name)}.{kind}-*"):
        process = left.name.rpartition("-")[2]
        if process.isdecimal() and not _is_running(int(process)):
            shutil.rmtree(left, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

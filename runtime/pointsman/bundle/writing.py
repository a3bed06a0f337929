"""Writing bundles: tensors streamed into one file, and folders that appear whole or not at all."""

import contextlib
import glob
import hashlib
import os
import secrets
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

    A link stays, and leads to what was written. What a killed process left behind is removed by the next one that
    writes the same target.

    Raises:
        OutputError: the disk is full or refuses.
    """
    with one_sentence(target):
        place = resolved(target)
        place.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(place, "partial")
        with _made(_beside(place, "partial")) as partial:
            yield partial
            _swap(partial, place)
        # Not before: killed between its two renames, a swap leaves the old output here and nowhere else.
        _remove_leftovers(place, "replaced")


@contextlib.contextmanager
def one_sentence(target: Path) -> Iterator[None]:
    """Turn what the disk refuses into one sentence that says what to do.

    Raises:
        OutputError: it refused something.
    """
    try:
        yield
    except PointsmanError:
        raise
    except OSError as error:
        raise OutputError(
            f"cannot write {target} ({error.strerror or error}); free some space or choose another output folder"
        ) from error


def resolved(target: Path) -> Path:
    """Where links and dots in `target` lead, whether or not anything is there."""
    return Path(os.path.realpath(target))


def _beside(place: Path, kind: str) -> Path:
    # Not the process's number: in a container every process has the same.
    return place.with_name(f".{place.name}.{kind}-{secrets.token_hex(4)}")


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[Path]:
    """A new folder, locked for as long as this process writes in it, and then removed unless it was renamed."""
    folder.mkdir()
    try:
        with contextlib.ExitStack() as stack:
            # File systems that lock no folders leave what a killed process wrote; all else goes well on them.
            with contextlib.suppress(OSError):
                stack.enter_context(_locked(folder))
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock that ends with this process, however it ends.

    Raises:
        OSError: another process holds it, or the file system knows none.
    """
    import fcntl  # absent from some platforms, where this package must still be importable

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _swap(partial: Path, target: Path) -> None:
    if target.exists():
        target.rename(_beside(target, "replaced"))
    partial.rename(target)


def _remove_leftovers(target: Path, kind: str) -> None:
    """Remove what no process holds any more."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.{kind}-*"):
        with contextlib.suppress(OSError), _locked(left):
            shutil.rmtree(left) if left.is_dir() else left.unlink()

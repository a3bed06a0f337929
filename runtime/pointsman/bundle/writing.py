"""Writing bundles: tensors streamed into one file, and folders and files that appear whole or not at all."""

import contextlib
import errno
import glob
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pointsman.errors import OutputError, PointsmanError
from pointsman.wording import as_text, is_text

ALIGNMENT = 4096

_NO_SPACE = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
_NO_PERMISSION = frozenset({errno.EACCES, errno.EPERM})
_OF_THE_DISK = "lost+found"  # what a new file system holds
_LEFT = re.compile(r"\.(partial|replaced)-[0-9a-f]{8}")


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
    writes the same target. A folder that cannot be renamed, as the root of a mounted disk, is filled instead: its
    content is exchanged, files of its first level last, so that a manifest is there only when all else is.

    Raises:
        OutputError: the disk is full or refuses.
    """
    with one_sentence(target):
        place = resolved(target)
        if _stays(place):
            with _filling(place) as partial:
                yield partial
            return
        _remove_leftovers(place, "partial")
        with _parents(place), _made(_beside(place, "partial")) as partial:
            yield partial
            _swap(partial, place)
        # Not before: killed between its two renames, a swap leaves the old output here and nowhere else.
        _remove_leftovers(place, "replaced")


@contextlib.contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A path beside `target` to write a file at, which takes its place when all has gone well and vanishes otherwise.

    Each writer has a path of its own, so that of two that write the same target neither disturbs the other; one that
    is killed leaves it behind.

    Raises:
        OutputError: the disk is full or refuses.
    """
    with one_sentence(target):
        partial = _beside(target, "partial")
        try:
            yield partial
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)  # there only where it did not take its place


@contextlib.contextmanager
def _parents(place: Path) -> Iterator[None]:
    """The folders above, those that were made for it removed again where nothing came into them."""
    made = [folder for folder in place.parents if not folder.exists()]
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


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
        raise OutputError(f"cannot write {target} ({error.strerror or error}); {what_to_do(error)}") from error


def what_to_do(error: OSError) -> str:
    """The advice that goes with what a disk refuses."""
    if error.errno in _NO_SPACE:
        return "free some space or choose another output folder"
    if error.errno in _NO_PERMISSION:
        return "check its permissions or choose another output folder"
    return "choose another output folder"


def check_writable(target: Path) -> None:
    """Find out by trying whether `replacing` could write there, before there is anything to write.

    Raises:
        OutputError: it could not.
    """
    if not is_text(resolved(target)):
        raise OutputError(f"{as_text(target)} is a path of bytes that are no UTF-8; choose another output folder")
    with one_sentence(target):
        place = resolved(target)
        above = place if _stays(place) else next(folder for folder in place.parents if folder.exists())
        trial = _beside(place, "partial") if above == place.parent else above / f".partial-{secrets.token_hex(4)}"
        trial.mkdir()
        try:
            (trial / "trial").write_bytes(bytes(ALIGNMENT))
        finally:
            shutil.rmtree(trial, ignore_errors=True)


def check_room(target: Path, nbytes: int) -> None:
    """Refuse to begin what will not fit.

    Raises:
        OutputError: the disk has fewer bytes free.
    """
    with one_sentence(target):
        above = next(folder for folder in (resolved(target), *resolved(target).parents) if folder.exists())
        free = shutil.disk_usage(above).free
    if free < nbytes:
        raise OutputError(
            f"{target} needs {nbytes / 1e6:,.1f} MB and its disk has {free / 1e6:,.1f} MB free; free some space or "
            "choose another output folder"
        )


def is_vacant(place: Path) -> bool:
    """Whether a folder holds nothing but what its disk has put there, or a killed process left."""
    return not any(_entries(place))


def resolved(target: Path) -> Path:
    """Where links and dots in `target` lead, whether or not anything is there."""
    return Path(os.path.realpath(target))


def _entries(place: Path) -> list[Path]:
    """What is in a folder, as its users see it: files last."""
    seen = (path for path in place.iterdir() if path.name != _OF_THE_DISK and not _LEFT.fullmatch(path.name))
    return sorted(seen, key=Path.is_file)


def _stays(place: Path) -> bool:
    """Whether a folder is there that cannot be renamed: a disk is mounted on it, or nothing can be made beside it."""
    return place.is_dir() and (os.path.ismount(place) or not os.access(place.parent, os.W_OK))


@contextlib.contextmanager
def _filling(place: Path) -> Iterator[Path]:
    """A folder inside `place` to write in, whose content takes the place of what is there."""
    for kind in ("partial", "replaced"):
        _remove_leftovers(place, kind, inside=True)
    with _made(place / f".partial-{secrets.token_hex(4)}") as partial:
        yield partial
        with _made(place / f".replaced-{secrets.token_hex(4)}") as replaced:
            for old in reversed(_entries(place)):
                old.rename(replaced / old.name)
            for new in _entries(partial):
                new.rename(place / new.name)


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
                stack.enter_context(locked(folder))
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def one_at_a_time(bundle: Path) -> Iterator[None]:
    """Read and change a bundle's manifest while nobody else does: what another has put in between would be lost.

    File systems that lock no folders leave that to whoever runs two commands on one bundle.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stack.enter_context(locked(bundle, waits=True))
        yield


@contextlib.contextmanager
def locked(place: Path, *, waits: bool = False) -> Iterator[None]:
    """Hold the lock of a file or folder; it ends with this process, however that ends.

    Args:
        place: the file or folder.
        waits: whether to wait for a process that holds it.

    Raises:
        BlockingIOError: another process holds it, and `waits` is not given.
        OSError: the file system knows none.
    """
    try:
        import fcntl
    except ModuleNotFoundError as error:
        raise OSError(errno.ENOSYS, "no locks on this platform") from error
    descriptor = os.open(place, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


def _swap(partial: Path, target: Path) -> None:
    """Put a folder in the place of what is there, and remove that."""
    if not target.exists():
        partial.rename(target)
        return
    replaced = target.rename(_beside(target, "replaced"))
    partial.rename(target)
    with contextlib.suppress(OSError):
        _remove(replaced)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _remove_leftovers(place: Path, kind: str, *, inside: bool = False) -> None:
    """Remove what no process holds any more, beside a folder or inside it."""
    pattern = f".{kind}-*" if inside else f".{glob.escape(place.name)}.{kind}-*"
    for left in (place if inside else place.parent).glob(pattern):
        with contextlib.suppress(OSError), locked(left):
            _remove(left)

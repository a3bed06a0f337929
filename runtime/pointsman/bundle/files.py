"""Files of a bundle and their hashes."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

from pointsman.bundle import names
from pointsman.bundle.quantization import Scheme
from pointsman.errors import BundleError

PULL: Final = "run `git lfs pull`"
_POINTER: Final = "is a Git LFS pointer"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """A file of the bundle; `path` is relative to it, with forward slashes."""

    path: str
    bytes: int
    sha256: str


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes, read in bounded memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record_of(folder: Path, path: Path) -> FileRecord:
    """The record of a file inside a bundle's folder."""
    return FileRecord(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=sha256_of(path))


def verify_files(bundle: Path, records: Iterator[FileRecord] | tuple[FileRecord, ...]) -> None:
    """Check sizes and hashes.

    Raises:
        BundleError: naming every file that is missing, of another size, or changed; or the first that cannot be read.
    """
    try:
        problems = {record.path: problem for record in records if (problem := _problem_with(bundle, record))}
    except OSError as error:
        raise unreadable(error) from error
    if problems:
        raise BundleError(f"{bundle} is damaged: {'; '.join(problems.values())}; {_remedy(problems)}")


@contextmanager
def verified(bundle: Path, records: Sequence[FileRecord]) -> Iterator[None]:
    """Check sizes and hashes as `verify_files` does: all before what is entered, but for the hashes of weights.

    These are the large files, and numbers: changed ones cannot harm whoever loads them meanwhile.

    Raises:
        BundleError: as `verify_files`, in place of an error of what was entered.
    """
    weights = tuple(record for record in records if record.path.endswith(f"/{names.WEIGHTS}"))
    if any(_absence(bundle, record) for record in weights):
        verify_files(bundle, tuple(records))
    verify_files(bundle, tuple(record for record in records if record not in weights))
    with ThreadPoolExecutor(1) as pool:
        checking = pool.submit(verify_files, bundle, weights)
        try:
            yield
        finally:
            checking.result()


def _remedy(problems: Mapping[str, str]) -> str:
    """The least that makes files anew, or others that all these depend on."""
    if any(problem.endswith(_POINTER) for problem in problems.values()):
        return PULL
    paths = problems.keys()
    kinds = {
        path.partition("/")[0] if path.startswith(f"{names.PLANS}/") else path.rpartition("/")[0] for path in paths
    }
    if kinds <= {names.PLANS}:
        return "build the engines again"
    if kinds <= {names.PLANS, *map(names.variant_folder, get_args(Scheme))}:
        return "quantize it again (`pointsman-calib quantize --force`)"
    return "export the bundle again"


def is_pointer(path: Path) -> bool:
    """Whether a file is what Git LFS leaves in the place of one that it has not fetched."""
    with path.open("rb") as file:
        return file.read(len(names.LFS_POINTER)) == names.LFS_POINTER


def unreadable(error: OSError) -> BundleError:
    """The error of a file that is there and that the system does not let us read."""
    return BundleError(f"cannot read {error.filename} ({error.strerror}); check its path and its permissions")


def _problem_with(bundle: Path, record: FileRecord) -> str | None:
    if (absence := _absence(bundle, record)) is not None:
        return absence
    is_same = sha256_of(bundle / record.path) == record.sha256
    return None if is_same else f"{record.path} was changed (its sha256 differs)"


def _absence(bundle: Path, record: FileRecord) -> str | None:
    """What shows without reading a file: that it is not there, or not whole."""
    path = bundle / record.path
    if not path.is_file():
        return f"{record.path} is missing"
    if is_pointer(path):
        return f"{record.path} {_POINTER}"
    if path.stat().st_size != record.bytes:
        return f"{record.path} has {path.stat().st_size} bytes instead of {record.bytes}"
    return None

"""A bundle by path or by URL, fetched once for each machine."""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Final

import fsspec
from filelock import FileLock

from pointsman.bundle import read_manifest
from pointsman.bundle.writing import replacing
from pointsman.errors import BundleError, BundleNotFoundError

_ACCOUNT: Final = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
_FETCHED: Final = Path(tempfile.gettempdir()) / f"pointsman-bundles{_ACCOUNT}"
"""Of this account alone: what lies there is taken for what was fetched."""


def local_bundle(bundle: str) -> Path:
    """The folder of a bundle on this machine.

    Args:
        bundle: Its folder, or a URL that fsspec knows, such as `s3://models/base-8`. Where a URL leads must not change.

    Raises:
        BundleNotFoundError: There is nothing at the URL.
        BundleError: What is there is no bundle, or a damaged one; or what was fetched would lie in another's folder.
    """
    if "://" not in bundle:
        return Path(bundle)
    folder = _FETCHED / hashlib.sha256(bundle.encode()).hexdigest()[:16]
    _FETCHED.mkdir(mode=0o700, exist_ok=True)
    if _FETCHED.is_symlink() or (_ACCOUNT and _FETCHED.stat().st_uid != os.getuid()):
        raise BundleError(f"{_FETCHED} is another account's; remove it, or set TMPDIR to a folder of your own")
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            _fetch(bundle, folder)
    return folder


def _fetch(url: str, folder: Path) -> None:
    files, path = fsspec.core.url_to_fs(url)
    if not files.exists(path):
        raise BundleNotFoundError(f"there is no bundle at {url}; check the address")
    with replacing(folder) as partial:
        files.get(f"{path.rstrip('/')}/", f"{partial}/", recursive=True)
        read_manifest(partial)

"""A bundle by path or by URL, fetched once for each machine."""

import hashlib
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Final

import fsspec
from filelock import FileLock

from pointsman.bundle import Manifest, read_manifest
from pointsman.bundle.writing import replacing
from pointsman.errors import BundleNotFoundError

_FETCHED: Final = Path(tempfile.gettempdir()) / "pointsman-bundles"


def local_bundle(bundle: str) -> Path:
    """The folder of a bundle on this machine.

    Args:
        bundle: Its folder, or a URL that fsspec knows, such as `s3://models/base-8`. Where a URL leads must not change.

    Raises:
        BundleNotFoundError: There is nothing at the URL.
        BundleError: What is there is no bundle, or a damaged one.
    """
    if "://" not in bundle:
        return Path(bundle)
    folder = _FETCHED / hashlib.sha256(bundle.encode()).hexdigest()[:16]
    _FETCHED.mkdir(exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            _fetch(bundle, folder)
    return folder


def content_of(manifest: Manifest, variant: str) -> str:
    """What fills of a variant follow from, wherever the bundle lies and whatever it is called.

    Args:
        manifest: Of the bundle.
        variant: One of it.

    Returns:
        16 hexadecimal digits: a digest of the vocabulary, of the variant's files, and of what the checkpoint says of
        generating.
    """
    files = [*manifest.tokenizer, *manifest.variants[variant].files]
    generation = asdict(manifest.generation) if manifest.generation else None
    content = json.dumps([[[file.path, file.sha256] for file in files], manifest.extra_ids, generation])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _fetch(url: str, folder: Path) -> None:
    files, path = fsspec.core.url_to_fs(url)
    if not files.exists(path):
        raise BundleNotFoundError(f"there is no bundle at {url}; check the address")
    with replacing(folder) as partial:
        files.get(f"{path.rstrip('/')}/", f"{partial}/", recursive=True)
        read_manifest(partial)

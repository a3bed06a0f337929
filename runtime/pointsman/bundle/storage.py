"""How `manifest.json` is written and read: under a checksum of its own, and strictly."""

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from pointsman.bundle.consistency import contradictions
from pointsman.bundle.files import unreadable
from pointsman.bundle.manifest import SCHEMA, Manifest
from pointsman.bundle.names import MANIFEST
from pointsman.bundle.records import from_json, to_json
from pointsman.errors import BundleError, BundleNotFoundError, OutputError

_CHECKSUM: Final = "sha256"  # the key beside the manifest's own


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write `manifest.json` into `folder`, replacing one that is there in a single step.

    Raises:
        OutputError: it cannot be written; what was there is as it was.
    """
    document = to_json(manifest)
    text = json.dumps(document | {_CHECKSUM: _checksum(document)}, indent=1, ensure_ascii=False)
    fresh = folder / f".{MANIFEST}.partial"
    try:
        fresh.write_text(text + "\n", encoding="utf-8")
        fresh.replace(folder / MANIFEST)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise OutputError(f"cannot write {folder / MANIFEST} ({error.strerror or error}); free some space") from error


def read_manifest(bundle: Path) -> Manifest:
    """Read a bundle's manifest.

    Raises:
        BundleNotFoundError: there is no bundle at `bundle`.
        BundleError: it cannot be read, is not JSON, of a newer schema, was changed, has unknown, missing or mistyped
            keys, or contradicts itself (all of these are named).
    """
    path = bundle / MANIFEST
    try:
        document = json.loads(_content(path).decode("utf-8"))
        problems = _checked(path, document)
        manifest, faults = from_json(Manifest, document)
    except BundleError:
        raise
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not valid JSON ({error}); export the bundle again") from error
    problems += faults
    if manifest is None or problems:
        raise BundleError(
            f"{path} is not a manifest of schema {SCHEMA}: {'; '.join(problems)}; export the bundle again"
        )
    if sentences := list(contradictions(manifest)):
        raise BundleError(f"{path} contradicts itself: {'; '.join(sentences)}; export the bundle again")
    return manifest


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleNotFoundError(
            f"{path.parent} is not a bundle (no {MANIFEST}); make one with `pointsman-export bundle`"
        ) from error
    except OSError as error:
        raise unreadable(error) from error


def _checked(path: Path, document: Any) -> list[str]:  # noqa: ANN401 - JSON is any of six types
    """Refuse a newer schema and what was changed, take the checksum out, and tell if there was none."""
    if not isinstance(document, dict):
        return []
    schema = document.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise BundleError(
            f"{path} has schema {schema} and this pointsman reads up to {SCHEMA}; upgrade pointsman or export again"
        )
    if _CHECKSUM not in document:
        return [f"{_CHECKSUM} is missing"]
    if document.pop(_CHECKSUM) != _checksum(document):
        raise BundleError(f"{path} was changed (its {_CHECKSUM} differs); export the bundle again")
    return []


def _checksum(document: dict[str, Any]) -> str:
    """Hex digest of the canonical JSON, in which neither the order of keys nor white space counts."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()

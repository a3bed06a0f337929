"""`manifest.json`: its whole, and how it is read and written."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pointsman.errors import BundleError, BundleNotFoundError, OutputError
from pointsman.manifest.architecture import Architecture
from pointsman.manifest.engines import Engine
from pointsman.manifest.files import FileRecord
from pointsman.manifest.variants import Variant
from pointsman.records import from_json, to_json

SCHEMA = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What requests may ask for; engines that are built for ranges of shapes are built for these.

    Attributes:
        tokens: of one input, and of one output.
    """

    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The checkpoint that a bundle was made from.

    Attributes:
        name: as it was given: a hub id, or a folder's name.
        sha256: over the bytes of its weight files.
        disagreements: each way in which its config.json contradicts its tensors.
        unused: tensors that no graph uses.
    """

    name: str
    sha256: str
    disagreements: tuple[str, ...]
    unused: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The whole of `manifest.json`.

    Attributes:
        schema: number of this format.
        producer: package name to version, of what wrote the bundle.
        source: the checkpoint.
        architecture: derived from its tensors.
        limits: what requests may ask for.
        extra_ids: how many sentinels `<extra_id_n>` follow the vocabulary's pieces.
        tokenizer: the files of the vocabulary.
        variants: by name.
        engines: plans built from them.
    """

    schema: int
    producer: dict[str, str]
    source: Source
    architecture: Architecture
    limits: Limits
    extra_ids: int
    tokenizer: tuple[FileRecord, ...]
    variants: dict[str, Variant]
    engines: tuple[Engine, ...] = ()

    def files(self) -> Iterator[FileRecord]:
        """Every file of the bundle, once."""
        seen: set[str] = set()
        variant_files = (file for variant in self.variants.values() for file in variant.files)
        for record in [*self.tokenizer, *variant_files, *(engine.file for engine in self.engines)]:
            if record.path not in seen:
                seen.add(record.path)
                yield record

    def is_current(self, engine: Engine) -> bool:
        """Whether a plan was built from the files that its variant has now."""
        variant = self.variants.get(engine.variant)
        return variant is not None and engine.built_from == variant.sources(engine.role)


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write `manifest.json` into `folder`, replacing one that is there in a single step.

    Raises:
        OutputError: it cannot be written; what was there is as it was.
    """
    text = json.dumps(to_json(manifest), indent=1, ensure_ascii=False)
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
        BundleError: it is not JSON, of a newer schema, or has unknown, missing or mistyped keys (all are named).
    """
    path = bundle / MANIFEST
    if not path.is_file():
        raise BundleNotFoundError(f"{bundle} is not a bundle (no {MANIFEST}); make one with `pointsman-export bundle`")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"{path} is not valid JSON ({error}); export the bundle again") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise BundleError(
            f"{path} has schema {schema} and this pointsman reads up to {SCHEMA}; upgrade pointsman or export again"
        )
    manifest, problems = from_json(Manifest, document)
    if manifest is None:
        raise BundleError(
            f"{path} is not a manifest of schema {SCHEMA}: {'; '.join(problems)}; export the bundle again"
        )
    return manifest

"""`manifest.json` as a whole."""

import contextlib
import importlib.metadata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pointsman.bundle.architecture import Architecture
from pointsman.bundle.files import FileRecord
from pointsman.bundle.generation import GenerationSettings
from pointsman.bundle.plans import PlanRecord
from pointsman.bundle.variants import Variant

SCHEMA = 4
"""Of what is written and read. Decoder steps of earlier schemas had another interface."""


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
        sha256: of its tensors, whatever files they lie in; docs/checkpoints.md says how it is computed.
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
        extra_ids: how many sentinels `<extra_id_n>` there are; they follow the pieces of `spiece.model`.
        tokenizer: the files of the vocabulary: `tokenizer.json` with `tokenizer_config.json`, or `spiece.model`.
        variants: by name.
        engines: plans built from them.
        generation: what the checkpoint says of generating; null where it says nothing, and in schema 1.
    """

    schema: int
    producer: dict[str, str]
    source: Source
    architecture: Architecture
    limits: Limits
    extra_ids: int
    tokenizer: tuple[FileRecord, ...]
    variants: dict[str, Variant]
    engines: tuple[PlanRecord, ...] = ()
    generation: GenerationSettings | None = None

    def files(self) -> Iterator[FileRecord]:
        """Every file of the bundle, once."""
        seen: set[str] = set()
        variant_files = (file for variant in self.variants.values() for file in variant.files)
        for record in [*self.tokenizer, *variant_files, *(plan.file for plan in self.engines)]:
            if record.path not in seen:
                seen.add(record.path)
                yield record

    def is_current(self, plan: PlanRecord) -> bool:
        """Whether a plan was built from the files that its variant has now."""
        variant = self.variants.get(plan.variant)
        return variant is not None and plan.built_from == variant.sources(plan.role)


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Package name to version, for `Manifest.producer`, of those installed (ONNX Runtime goes by two names)."""
    versions = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions

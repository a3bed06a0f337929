"""Bundles of the test checkpoints, each written once and for all tests."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from checkpoints import CHECKPOINTS, Spec, write_checkpoint
from pointsman.bundle import Dtype, Form, Manifest, read_manifest
from pointsman.model import SwitchModel
from pointsman_export.bundle import Capacity, export_bundle

FORMS: tuple[Form, ...] = ("fused", "portable")


@dataclass(frozen=True, slots=True)
class Export:
    """A bundle of one variant, and what it was made from."""

    spec: Spec
    checkpoint: Path
    folder: Path

    @property
    def manifest(self) -> Manifest:
        return read_manifest(self.folder)

    def graph(self, side: str) -> Path:
        """The file of the encoder or the decoder."""
        (variant,) = self.manifest.variants.values()
        return self.folder / getattr(variant, side).file

    def load(self) -> SwitchModel:
        (variant,) = self.manifest.variants
        return SwitchModel.load(self.folder, device="cpu", variant=variant, threads=1)


class Exports:
    """Exports what is asked for when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.checkpoint = cache(self._checkpoint)
        self.model = cache(self._model)
        self._exported = cache(self._export)

    def __call__(
        self, name: str, form: Form = "fused", *, dtype: Dtype = "float32", capacity: Capacity = "reference"
    ) -> Export:
        return self._exported(name, form, dtype, capacity)

    def _checkpoint(self, name: str) -> Path:
        return write_checkpoint(self._folder / name, CHECKPOINTS[name], tokenizer=True)

    def _export(self, name: str, form: Form, dtype: Dtype, capacity: Capacity) -> Export:
        target = self._folder / f"{name}-{form}-{dtype}-{capacity}"
        export_bundle(self.checkpoint(name), target, forms=[form], dtype=dtype, capacity=capacity)
        return Export(CHECKPOINTS[name], self.checkpoint(name), target)

    def _model(self, name: str, form: Form = "fused", **options: Any) -> SwitchModel:
        return self(name, form, **options).load()

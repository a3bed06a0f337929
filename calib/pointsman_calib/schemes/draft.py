"""A quantized variant in the making: its files, for any choice of what is kept in float, and its part of a manifest."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import onnx_ir as ir

from pointsman.bundle import (
    FileRecord,
    Graph,
    Quantization,
    Role,
    Scheme,
    Variant,
    installed_versions,
    names,
    record_of,
)
from pointsman_calib.graphs.external_data import in_file_order
from pointsman_calib.progress import Progress
from pointsman_calib.settle import Kept

_PACKAGES: Final = ("pointsman", "numpy", "onnx-ir", "onnxruntime")


class Draft(ABC):
    """The files of a variant, which are written anew for every choice.

    Attributes:
        source: the float graphs' files.
        scheme: what weights become.
        place: the folder to write in.
        graphs: the files of the variant's graphs.
        step: the float graph of the decoder's step for one position, where there is one, and the variant's.
        sha256: of the file of its weights.
    """

    def __init__(self, source: Mapping[Role, Path], scheme: Scheme, place: Path, *, step: Path | None = None) -> None:
        self.source, self.scheme, self.place = source, scheme, place
        self.graphs: dict[Role, Path] = {role: place / path.name for role, path in source.items()}
        self.step = None if step is None else (step, place / step.name)
        self.sha256 = ""
        self._left_out: frozenset[str] = frozenset()  # of the weights' file, as it is

    @property
    @abstractmethod
    def quantizable(self) -> Iterable[str]:
        """Names of the weights that the scheme quantizes."""

    @abstractmethod
    def store(self, models: Iterable[ir.Model], left_out: frozenset[str], progress: Callable[[int], object]) -> str:
        """Write the file of the weights.

        Args:
            models: the float graphs.
            left_out: weights that stay in float.
            progress: called with the bytes read after each tensor.

        Returns:
            its sha256.
        """

    @abstractmethod
    def rewrite(self, model: ir.Model, kept: Kept) -> None:
        """Make a float graph, in place, one of the variant's, which reads what was stored last."""

    @property
    def weights_file(self) -> Path:
        """The file of the weights."""
        return self.place / names.WEIGHTS

    def write(self, kept: Kept) -> None:
        """Write the variant anew; its weights only if others are left out of them than before."""
        if kept.weights != self._left_out:
            self.write_weights(kept.weights)
        self.write_graphs(kept)

    def write_weights(self, left_out: frozenset[str]) -> None:
        """Write the weights anew."""
        models = self.models().values()
        total = sum(tensor.nbytes for _, tensor in in_file_order(models))
        with Progress(f"rounding to {self.scheme}", total, unit="B") as shown:
            self.sha256 = self.store(models, left_out, shown.update)
        self._left_out = left_out

    def write_graphs(self, kept: Kept) -> None:
        """Write the graphs anew."""
        for role, model in self.models().items():
            self.rewrite(model, kept)
            ir.save(model, self.graphs[role])
        if self.step is not None:
            source, target = self.step
            model = ir.load(source)
            self.rewrite(model, kept)
            ir.save(model, target)

    def models(self) -> dict[Role, ir.Model]:
        """The float graphs; their weights stay on disk."""
        return {role: ir.load(path) for role, path in self.source.items()}

    def variant(self, source: Variant, quantization: Quantization, *others: str) -> Variant:
        """What a manifest says of it, once the folder has its place.

        Args:
            source: the float variant.
            quantization: how it was made.
            others: names of files in the folder beside the graphs and the weights.
        """
        weights = FileRecord(path=names.WEIGHTS, bytes=self.weights_file.stat().st_size, sha256=self.sha256)
        steps = () if self.step is None else (self.step[1],)
        files = (*self.graphs.values(), *steps, *(self.place / name for name in others))
        records = (*(record_of(self.place, path) for path in files), weights)
        return replace(
            source,
            precision=self.scheme,
            encoder=self._moved(source.encoder),
            decoder=self._moved(source.decoder),
            step=source.step and self._moved(source.step),
            files=tuple(replace(record, path=self._final(record.path)) for record in records),
            quantization=quantization,
        )

    def _moved(self, graph: Graph) -> Graph:
        return replace(graph, file=self._final(Path(graph.file).name))

    def _final(self, name: str) -> str:
        return f"{names.variant_folder(self.scheme)}/{name}"


def producer() -> dict[str, str]:
    """Versions of what quantizes."""
    return installed_versions(_PACKAGES)

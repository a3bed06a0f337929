"""Bundles of the test checkpoints, each written once and for all tests."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import onnx_ir as ir

from checkpoints import CHECKPOINTS, Spec, write_checkpoint
from pointsman.bundle import Dtype, Form, Manifest, read_manifest
from pointsman.model import SwitchModel
from pointsman_export import bundle
from pointsman_export.bundle import Capacity, export_bundle
from pointsman_export.network import Build

FORMS: tuple[Form, ...] = ("fused", "portable")
GraphOf = Callable[[Build, Any], ir.Model]


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
        self._graphs = _traced_once(bundle.encoder_graph), _traced_once(bundle.decoder_graph)
        self.checkpoint = cache(self._checkpoint)
        self.model = cache(self._model)
        self._exported = cache(self._export)

    def __call__(
        self, name: str, form: Form = "fused", *, dtype: Dtype = "float32", capacity: Capacity = "reference"
    ) -> Export:
        return self._exported(name, form, dtype, capacity)

    @contextmanager
    def traced_once(self) -> Iterator[None]:
        """Exports in here trace an architecture only if none of these tests has before."""
        encoder_graph, decoder_graph = self._graphs
        with patch.multiple(bundle, encoder_graph=encoder_graph, decoder_graph=decoder_graph):
            yield

    def _checkpoint(self, name: str) -> Path:
        return write_checkpoint(self._folder / name, CHECKPOINTS[name], tokenizer=True)

    def _export(self, name: str, form: Form, dtype: Dtype, capacity: Capacity) -> Export:
        target = self._folder / f"{name}-{form}-{dtype}-{capacity}"
        with self.traced_once():
            export_bundle(self.checkpoint(name), target, forms=[form], dtype=dtype, capacity=capacity)
        return Export(CHECKPOINTS[name], self.checkpoint(name), target)

    def _model(self, name: str, form: Form = "fused", **options: Any) -> SwitchModel:
        return self(name, form, **options).load()


def _traced_once(graph_of: GraphOf) -> GraphOf:
    """Tracing takes most of an export's time and knows no weights: checkpoints of one architecture share it."""
    graphs: dict[Build, ir.Model] = {}

    def graph(build: Build, tensors: Any) -> ir.Model:
        if build not in graphs:
            graphs[build] = graph_of(build, tensors)
        for name, value in graphs[build].graph.initializers.items():
            if name in tensors:
                value.const_value = tensors[name]
        return graphs[build]

    return graph

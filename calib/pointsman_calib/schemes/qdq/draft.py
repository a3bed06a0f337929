"""A variant in the making: files for any choice of what is spared."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx_ir as ir
from tqdm import tqdm

from pointsman.bundle import Architecture, Role, names
from pointsman_calib.graphs.external_data import in_file_order
from pointsman_calib.graphs.products import products
from pointsman_calib.ranges.table import RangeTable
from pointsman_calib.schemes.qdq.graphs import rewrite
from pointsman_calib.schemes.qdq.scales import Clipping, activation_scales, expert_factors
from pointsman_calib.schemes.qdq.weights import QuantizedWeight, output_axes, write_weights
from pointsman_calib.settle import Spared


class Draft:
    """The files of the variant, at first with nothing spared.

    Inputs that are spared stay in float32 and meet INT8 weights, which are made float32 where they are used.

    Attributes:
        products: of both graphs, with weights.
        axes: the output axis of each weight that can be quantized.
        graphs: the files of the graphs.
        sha256: of the file of the weights.
    """

    def __init__(
        self,
        source: Mapping[Role, Path],
        table: RangeTable,
        architecture: Architecture,
        clipping: Clipping,
        place: Path,
    ) -> None:
        """Write the variant that spares nothing.

        Args:
            source: the float graphs' files.
            table: ranges of their activations.
            architecture: of the model.
            clipping: how ranges become scales.
            place: the folder to write in.

        Raises:
            BundleError: the table is of other graphs, or a weight is NaN or infinite.
        """
        self.source, self.place = source, place
        self.graphs: dict[Role, Path] = {role: place / path.name for role, path in source.items()}
        self.products = [found for role, model in self._models().items() for found in products(model.graph, role)]
        self.axes = output_axes(self.products, architecture)
        self._factors = expert_factors(table, self.products, architecture, clipping)
        self._scales = activation_scales(table, self.products, clipping.method)
        self._left_out: frozenset[str] = frozenset()
        self._write_weights(self._left_out)
        self._write_graphs(Spared())

    @property
    def quantizable(self) -> Iterable[str]:
        """Names of the weights that can be quantized."""
        return self.axes

    def write(self, spared: Spared) -> None:
        """Write the variant anew."""
        if spared.weights != self._left_out:
            self._write_weights(spared.weights)
        self._write_graphs(spared)

    def _models(self) -> dict[Role, ir.Model]:
        return {role: ir.load(path) for role, path in self.source.items()}

    def _write_weights(self, left_out: frozenset[str]) -> None:
        models = list(self._models().values())
        axes = {name: axis for name, axis in self.axes.items() if name not in left_out}
        total = sum(tensor.nbytes for _, tensor in in_file_order(models))
        with tqdm(total=total, desc="int8-qdq", unit="B", unit_scale=True, disable=None) as bar:
            written = write_weights(models, axes, self._factors, self.place / names.WEIGHTS, progress=bar.update)
        self._quantized: dict[str, QuantizedWeight]
        self._kept: dict[str, ir.ExternalTensor]
        self._quantized, self._kept, self.sha256 = written
        self._left_out = left_out

    def _write_graphs(self, spared: Spared) -> None:
        in_float = spared.inputs | spared.weights
        for role, model in self._models().items():
            rounded = (each for each in self.products if each.role == role and each.weight not in in_float)
            rewrite(model, rounded, self._scales, self._quantized, self._kept)
            ir.save(model, self.graphs[role])

"""The draft of an `int8-qdq` variant."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import onnx_ir as ir

from pointsman.bundle import Architecture, ExpertCoverage, Role
from pointsman_calib.graphs.products import products
from pointsman_calib.ranges import Method
from pointsman_calib.ranges.table import RangeTable
from pointsman_calib.schemes.draft import Draft
from pointsman_calib.schemes.qdq.graphs import rewrite
from pointsman_calib.schemes.qdq.scales import activation_scales, expert_factors
from pointsman_calib.schemes.qdq.weights import QuantizedWeight, output_axes, write_weights
from pointsman_calib.settle import Kept


class QdqDraft(Draft):
    """The files of the variant, at first with nothing kept in float.

    Inputs that are kept stay in float32 and meet INT8 weights, which are made float32 where they are used.

    Attributes:
        products: of both graphs, with weights.
        axes: the output axis of each weight that can be quantized.
    """

    def __init__(
        self,
        source: Mapping[Role, Path],
        table: RangeTable,
        architecture: Architecture,
        coverage: ExpertCoverage,
        method: Method,
        place: Path,
        step: Path | None,
    ) -> None:
        """Write the variant that keeps nothing.

        Args:
            source: the float graphs' files.
            table: ranges of their activations.
            architecture: of the model.
            coverage: of its experts; the thin ones have no range of their own.
            method: which of the table's ranges.
            place: the folder to write in.
            step: the float graph of the decoder's step for one position, where there is one.

        Raises:
            BundleError: the table is of other graphs, or a weight is NaN or infinite.
        """
        super().__init__(source, "int8-qdq", place, step=step)
        self.products = [found for role, model in self.models().items() for found in products(model.graph, role)]
        self.axes = output_axes(self.products, architecture)
        self._factors = expert_factors(table, self.products, architecture, coverage, method)
        self._scales = activation_scales(table, self.products, method)
        self._quantized: dict[str, QuantizedWeight] = {}
        self._others: dict[str, ir.ExternalTensor] = {}
        self.write_weights(frozenset())
        self.write_graphs(Kept())

    @property
    def quantizable(self) -> Iterable[str]:
        """Names of the weights that can be quantized."""
        return self.axes

    def store(self, models: Iterable[ir.Model], left_out: frozenset[str], progress: Callable[[int], object]) -> str:
        """Round to nearest; see `Draft.store`."""
        axes = {name: axis for name, axis in self.axes.items() if name not in left_out}
        written = write_weights(models, axes, self._factors, self.weights_file, progress=progress)
        self._quantized, self._others, sha256 = written
        return sha256

    def rewrite(self, model: ir.Model, kept: Kept) -> None:
        """Put Q/DQ in; see `Draft.rewrite`."""
        in_float = kept.inputs | kept.weights
        rounded = (product for product in self.products if product.weight not in in_float)
        rewrite(model, rounded, self._scales, self._quantized, self._others)

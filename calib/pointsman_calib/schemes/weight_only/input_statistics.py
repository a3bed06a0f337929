"""What the float graphs multiply their weights with, over a corpus: the Hessians that GPTQ rounds by.

They are collected for one group of weights after another, as many as fit the memory budget. Inputs of an expert are the
tokens that its router sends it, so an expert's Hessian says how often and with what it is asked; those of its output
projection are computed by its branch's own nodes, since no run gives what is inside branches.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pointsman.bundle import names
from pointsman_calib.corpus.batches import Batch
from pointsman_calib.graphs.pieces import Piece, Values
from pointsman_calib.graphs.products import Product, products, sparse_layers, values_of
from pointsman_calib.graphs.runs import PiecewiseRun
from pointsman_calib.rounding import BlockFormat, BlockQuantized, InputHessian, gptq, round_blocks

MEMORY_BUDGET = 1 << 28  # bytes of Hessians held at once

Floats = NDArray[np.float32]


class GptqRounding:
    """Rounds weights by GPTQ, collecting their inputs' statistics when they are first asked for.

    Weights must be asked for in the order of `weights`, as `Draft.round` does.
    """

    def __init__(
        self,
        statistics: "InputStatistics",
        weights: Sequence[str],
        thin: Mapping[str, Sequence[int]],
    ) -> None:
        """Collect nothing yet.

        Args:
            statistics: of the float variant.
            weights: those that will be rounded, in order.
            thin: for each sparse layer, the experts that are rounded to nearest, since few tokens reach them.
        """
        self.statistics = statistics
        self.weights = [name for name in weights if not self._is_thin(statistics.products.get(name), thin)]
        self.hessians: dict[str, InputHessian] = {}

    def __call__(self, name: str, weight: Floats, form: BlockFormat) -> BlockQuantized:
        """Round one weight; see `graphs.Rounding`."""
        if name not in self.statistics.products or name not in self.weights:
            return round_blocks(weight, form)
        if name not in self.hessians:
            self.hessians = self.statistics.collect(self._next_group(name))
        return gptq(weight, self.hessians.pop(name).matrix, form)

    def _next_group(self, first: str) -> list[str]:
        """Weights from `first` on whose Hessians fit the budget."""
        group: list[str] = []
        size = 0
        for name in self.weights[self.weights.index(first) :]:
            if name in self.statistics.products:
                width = self.statistics.products[name].width
                size += width * width * np.dtype(np.float32).itemsize
                if group and size > MEMORY_BUDGET:
                    break
                group.append(name)
        return group

    @staticmethod
    def _is_thin(product: Product | None, thin: Mapping[str, Sequence[int]]) -> bool:
        return product is not None and product.expert in thin.get(str(product.layer), ())


class InputStatistics:
    """What is seen of a float variant's products in a run.

    Attributes:
        products: by the weight's name.
    """

    def __init__(self, run: PiecewiseRun, experts: int) -> None:
        """Find the products; nothing is run yet.

        Args:
            run: of the fused float variant.
            experts: of each sparse layer.
        """
        self.run, self.experts = run, experts
        found = (product for role, pieces in run.graphs.items() for product in products(pieces.graph, role))
        self.products = {product.weight: product for product in found}

    def coverage(self) -> dict[str, tuple[int, ...]]:
        """For each sparse layer, the tokens that each expert is given."""
        layers = {role: sparse_layers(pieces.graph) for role, pieces in self.run.graphs.items()}
        counts = {layer: np.zeros(self.experts, np.int64) for layer in sorted(itertools.chain(*layers.values()))}
        choices = {role: map(names.expert_choice, found) for role, found in layers.items()}
        for batch, role, values in self.run.values(choices):
            for layer in layers[role]:
                if (chosen := values.get(names.expert_choice(layer))) is not None:
                    counts[layer] += np.bincount(chosen[batch.tokens(role)], minlength=self.experts)
        return {layer: tuple(map(int, seen)) for layer, seen in counts.items()}

    def collect(self, weights: Iterable[str]) -> dict[str, InputHessian]:
        """Hessians of these weights' inputs over the text."""
        wanted = [self.products[name] for name in weights]
        hessians = {product.weight: InputHessian(product.width) for product in wanted}
        branches = {product.weight: self._branch(product) for product in wanted if _is_inner(product)}
        for batch, role, values in self.run.values(values_of(wanted)):
            for product in wanted:
                if product.role == role and product.inputs in values:
                    rows = _rows(product, values, batch)
                    inner = branches.get(product.weight)
                    hessians[product.weight].update(rows if inner is None else _through(inner, rows))
            del values
        return hessians

    def _branch(self, product: Product) -> Piece:
        return self.run.graphs[product.role].load_inner(product.weight)


def _is_inner(product: Product) -> bool:
    """Whether it multiplies what an expert's branch computes first."""
    expert = names.expert_of(product.weight)
    return expert is not None and expert[2] == names.OUTPUT_PROJECTION


def _rows(product: Product, values: Values, batch: Batch) -> Floats:
    """The rows that a weight, or an expert, is given, [rows, width]."""
    rows = batch.tokens(product.role)
    if product.layer is not None:
        rows = rows & (values[names.expert_choice(product.layer)] == product.expert)
    hidden: Floats = values[product.inputs].reshape(*rows.shape, -1)[rows]
    return hidden


def _through(branch: Piece, rows: Floats) -> Floats:
    (inner,) = branch.run(dict.fromkeys(branch.inputs, rows)).values()
    return inner

"""What the float graphs multiply their weights with, over a corpus: the Hessians that GPTQ rounds by.

They are collected for one group of weights after another, as many as fit the memory budget. Inputs of an expert are the
tokens that its router sends it, so an expert's Hessian says how often and with what it is asked; those of its output
projection are computed by its branch's own nodes, since no run gives what is inside branches.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pointsman.backends.onnxruntime.session import Device
from pointsman.bundle import Role, names
from pointsman.processors import usable
from pointsman_calib.corpus.batches import Batch
from pointsman_calib.graphs.pieces import Piece, Values
from pointsman_calib.graphs.products import Product, products, sparse_layers, values_of
from pointsman_calib.graphs.runs import PiecewiseRun
from pointsman_calib.progress import Progress
from pointsman_calib.rounding import BlockFormat, BlockQuantized, InputHessian, gptq, round_blocks
from pointsman_calib.settle import Scores

MEMORY_BUDGETS: Final[dict[Device, int]] = {"cpu": 1 << 28, "cuda": 1 << 30}
"""Bytes of Hessians that are collected at once; on a GPU pieces are larger too, and are to be run as seldom."""

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
        budget: int = MEMORY_BUDGETS["cpu"],
        by: Callable[[Floats, Floats, BlockFormat], BlockQuantized] = gptq,
    ) -> None:
        """Collect nothing yet.

        Args:
            statistics: of the float variant.
            weights: those that will be rounded, in order.
            thin: for each sparse layer, the experts that are rounded to nearest, since few tokens reach them.
            budget: bytes of Hessians that are collected at once.
            by: what rounds a weight with a Hessian.
        """
        self.statistics, self.budget, self.by = statistics, budget, by
        self.weights = [name for name in weights if not self._is_thin(statistics.products.get(name), thin)]
        self.hessians: dict[str, InputHessian] = {}

    def __call__(self, name: str) -> Callable[[Floats, BlockFormat], BlockQuantized]:
        """How one weight is rounded; see `graphs.Rounding`."""
        if name not in self.statistics.products or name not in self.weights:
            return round_blocks
        if name not in self.hessians:
            self.hessians = self.statistics.collect(self._next_group(name))
        hessian = self.hessians.pop(name)
        return lambda weight, form: self.by(weight, hessian.matrix, form)

    def _next_group(self, first: str) -> list[str]:
        """Weights from `first` on whose Hessians fit the budget."""
        group: list[str] = []
        widths: dict[_Inputs, int] = {}
        for name in self.weights[self.weights.index(first) :]:
            if (product := self.statistics.products.get(name)) is not None:
                widths[_Inputs.of(product)] = product.width
                size = sum(width * width for width in widths.values()) * np.dtype(np.float32).itemsize
                if group and size > self.budget:
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

    def given(self, scores: Scores) -> dict[str, tuple[int, ...]]:
        """As `coverage`, where the float variant was scored on the whole text."""
        counted = {
            layer: np.bincount(scores.experts[names.expert_choice(layer)], minlength=self.experts)
            for pieces in self.run.graphs.values()
            for layer in sparse_layers(pieces.graph)
        }
        return {layer: tuple(map(int, counted[layer])) for layer in sorted(counted)}

    def coverage(self) -> dict[str, tuple[int, ...]]:
        """For each sparse layer, the tokens that each expert is given."""
        layers = {role: sparse_layers(pieces.graph) for role, pieces in self.run.graphs.items()}
        counts = {layer: np.zeros(self.experts, np.int64) for layer in sorted(itertools.chain(*layers.values()))}
        choices = {role: [*map(names.expert_choice, found)] for role, found in layers.items()}
        for batch, role, values in self._shown(choices):
            for layer in layers[role]:
                if (chosen := values.get(names.expert_choice(layer))) is not None:
                    counts[layer] += np.bincount(chosen[batch.tokens(role)], minlength=self.experts)
        return {layer: tuple(map(int, seen)) for layer, seen in counts.items()}

    def collect(self, weights: Iterable[str]) -> dict[str, InputHessian]:
        """Hessians of these weights' inputs over the text; weights that multiply the same share one."""
        wanted = [self.products[name] for name in weights]
        first = {_Inputs.of(product): product for product in reversed(wanted)}
        hessians = {inputs: InputHessian(product.width) for inputs, product in first.items()}
        branches = {inputs: self._branch(product) for inputs, product in first.items() if inputs.inner}

        def update(inputs: _Inputs, values: Values, batch: Batch) -> None:
            rows, inner = _rows(first[inputs], values, batch), branches.get(inputs)
            hessians[inputs].update(rows if inner is None else _through(inner, rows))

        with ThreadPoolExecutor(usable()) as pool:
            for batch, role, values in self._shown(values_of(first.values())):
                given = [inputs for inputs in first if inputs.role == role and inputs.value in values]
                deque(pool.map(update, given, itertools.repeat(values), itertools.repeat(batch)), maxlen=0)
                del values  # before the next are there
        return {product.weight: hessians[_Inputs.of(product)] for product in wanted}

    def _shown(self, wanted: Mapping[Role, Iterable[str]]) -> Iterator[tuple[Batch, Role, Values]]:
        with Progress("what the weights multiply", self.run.work_for(wanted)) as shown:
            self.run.progress = shown.update
            yield from self.run.values(wanted)

    def _branch(self, product: Product) -> Piece:
        return self.run.graphs[product.role].load_inner(product.weight)


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What a product multiplies its weight with.

    Attributes:
        role: the graph.
        value: in it.
        expert: whose rows of the value they are; None where all are.
        inner: whether they are what the expert's branch computes of these rows first.
    """

    role: Role
    value: str
    expert: int | None
    inner: bool

    @classmethod
    def of(cls, product: Product) -> "_Inputs":
        expert = names.expert_of(product.weight)
        inner = expert is not None and expert[2] == names.OUTPUT_PROJECTION
        return cls(product.role, product.inputs, product.expert, inner)


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

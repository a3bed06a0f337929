"""What the float graphs multiply their weights with, over a corpus: the Hessians that GPTQ rounds by.

They are collected for one group of weights after another, as many as fit the memory budget. Inputs of an expert are the
tokens that its router sends it, so an expert's Hessian tells how often and with what it is asked; those of its `wo` are
computed from its float `wi`.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from pointsman.bundle import Activation, Architecture, Role
from pointsman_calib.corpus.batches import Batch
from pointsman_calib.graphs.external_data import read_tensor
from pointsman_calib.graphs.pieces import Values
from pointsman_calib.graphs.runs import PiecewiseRun
from pointsman_calib.rounding import BlockFormat, BlockQuantized, InputHessian, gptq, round_blocks

MEMORY_BUDGET = 1 << 28  # bytes of Hessians held at once
# Codes that make up for each other's errors in products are further from the weight itself, which is what a look-up
# gives; a larger damping weighs it too. Of 0.01 to 1, the demo model's routes and tokens change least under this one.
DAMPING, LOOKED_UP_DAMPING = 0.01, 0.3
_EXPERT = re.compile(r"(?P<layer>.+)\.experts\.expert_(?P<expert>\d+)\.(?P<projection>wi|wi_0|wi_1|wo)\.weight")

Floats = NDArray[np.float32]
_ACTIVATIONS: dict[Activation, Callable[[Floats], Floats]] = {
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
}


@dataclass(frozen=True, slots=True)
class Product:
    """Where a weight's inputs are found.

    Attributes:
        role: of the graph that has the product.
        weight: its name.
        size: how many inputs it has.
        inputs: name of the value that it multiplies; for an expert, of the sparse layer's input.
        layer: for an expert, its sparse layer; empty outside experts.
        chosen: for an expert, the name of the value that tells each token's expert.
        expert: its number; None outside experts.
    """

    role: Role
    weight: str
    size: int
    inputs: str
    layer: str = ""
    chosen: str | None = None
    expert: int | None = None

    @property
    def values(self) -> tuple[str, ...]:
        """The values that a run must hand out."""
        return (self.inputs,) if self.chosen is None else (self.inputs, self.chosen)

    @property
    def is_second(self) -> bool:
        """Whether it multiplies what an expert's first projection gives, which no value of the graph holds."""
        return self.expert is not None and self.weight.endswith(".wo.weight")


class GptqRounding:
    """Rounds weights by GPTQ, collecting their inputs' statistics when they are first asked for.

    Weights must be asked for in the order of `names`, as `Draft.round` does.
    """

    def __init__(
        self,
        statistics: "InputStatistics",
        names: Sequence[str],
        thin: Mapping[str, Sequence[int]],
        looked_up: Set[str] = frozenset(),
    ) -> None:
        """Collect nothing yet.

        Args:
            statistics: of the float variant.
            names: weights that will be rounded, in order.
            thin: for each sparse layer, the experts that are rounded to nearest, since few tokens reach them.
            looked_up: weights of products, and of look-ups too.
        """
        self.statistics, self.looked_up = statistics, looked_up
        self.names = [name for name in names if not self._is_thin(statistics.products.get(name), thin)]
        self.hessians: dict[str, InputHessian] = {}

    def __call__(self, name: str, weight: Floats, form: BlockFormat) -> BlockQuantized:
        """Round one weight; see `graphs.Rounding`."""
        if name not in self.statistics.products or name not in self.names:
            return round_blocks(weight, form)
        if name not in self.hessians:
            self.hessians = self.statistics.collect(self._next_group(name))
        damping = LOOKED_UP_DAMPING if name in self.looked_up else DAMPING
        return gptq(weight, self.hessians.pop(name).matrix, form, damping=damping)

    def _next_group(self, first: str) -> list[str]:
        """Weights from `first` on whose Hessians fit the budget."""
        group: list[str] = []
        size = 0
        for name in self.names[self.names.index(first) :]:
            if name in self.statistics.products:
                inputs = self.statistics.products[name].size
                size += inputs * inputs * np.dtype(np.float32).itemsize
                if group and size > MEMORY_BUDGET:
                    break
                group.append(name)
        return group

    @staticmethod
    def _is_thin(product: "Product | None", thin: Mapping[str, Sequence[int]]) -> bool:
        return product is not None and product.expert in thin.get(product.layer, ())


class InputStatistics:
    """What is seen of a float variant's products in a run.

    Attributes:
        products: by the weight's name.
    """

    def __init__(self, run: PiecewiseRun, architecture: Architecture) -> None:
        """Find the products; nothing is run yet."""
        self.run, self.architecture = run, architecture
        found = (product for role, pieces in run.graphs.items() for product in products(role, pieces.graph))
        self.products = {product.weight: product for product in found}

    def coverage(self) -> dict[str, tuple[int, ...]]:
        """For each sparse layer, the tokens that each expert is given."""
        routed = [product for product in self.products.values() if product.chosen is not None]
        layers = {product.chosen: product.layer for product in routed}
        counts = {layer: np.zeros(self.architecture.num_experts, np.int64) for layer in sorted(layers.values())}
        for batch, role, values in self.run.values(_by_role((each.role, str(each.chosen)) for each in routed)):
            for name, chosen in values.items():
                counts[layers[name]] += np.bincount(chosen[batch.tokens(role)], minlength=len(counts[layers[name]]))
        return {layer: tuple(map(int, seen)) for layer, seen in counts.items()}

    def collect(self, weights: Iterable[str]) -> dict[str, InputHessian]:
        """Hessians of these weights' inputs over the text."""
        wanted = [self.products[name] for name in weights]
        hessians = {product.weight: InputHessian(product.size, np.float32) for product in wanted}
        taps = _by_role((product.role, value) for product in wanted for value in product.values)
        for batch, role, values in self.run.values(taps):
            for product in wanted:
                if product.role == role and product.inputs in values:
                    hessians[product.weight].update(self._inputs(product, values, batch))
            del values
        return hessians

    def _inputs(self, product: Product, values: Values, batch: Batch) -> Floats:
        """The rows that a weight multiplies, [rows, inputs]."""
        rows = batch.tokens(product.role)
        if product.chosen is not None:
            rows = rows & (values[product.chosen] == product.expert)
        hidden: Floats = values[product.inputs].reshape(*rows.shape, -1)[rows]
        return self._inner(product, hidden) if product.is_second else hidden

    def _inner(self, product: Product, hidden: Floats) -> Floats:
        """What an expert's `wo` multiplies."""
        initializers = self.run.graphs[product.role].graph.initializers
        prefix = product.weight.removesuffix("wo.weight")
        names = ("wi_0", "wi_1") if self.architecture.gated else ("wi",)
        first, *gates = (read_tensor(weight_data(initializers[f"{prefix}{name}.weight"])) for name in names)
        inner = _ACTIVATIONS[self.architecture.activation](hidden @ first)
        for gate in gates:
            inner = inner * (hidden @ gate)
        return inner


def _by_role(names: Iterable[tuple[Role, str]]) -> dict[Role, set[str]]:
    found: dict[Role, set[str]] = defaultdict(set)
    for role, name in names:
        found[role].add(name)
    return found


def products(role: Role, graph: ir.Graph) -> Iterator[Product]:
    """Every product with a weight: those of the graph itself, then those in its experts' branches."""
    by_name = {str(node.name): node for node in graph}
    for node in graph:
        if node.op_type in ("MatMul", "Gemm") and _is_weight(node.inputs[1]):
            inputs, weight = (str(value.name) for value in node.inputs[:2] if value is not None)
            rows, columns = weight_data(graph.initializers[weight]).shape.numpy()
            yield Product(role, weight, columns if node.op_type == "Gemm" else rows, inputs)
    for name in graph.initializers:
        if match := _EXPERT.fullmatch(name):
            path = "/" + re.sub(r"\.(?!\d)", "/", match["layer"])
            norm = path.removesuffix("/mlp") + "/layer_norm/RMSNormalization"
            yield Product(
                role,
                name,
                weight_data(graph.initializers[name]).shape.numpy()[0],
                str(by_name[norm].outputs[0].name),
                layer=match["layer"],
                chosen=str(by_name[f"{path}/ArgMax"].outputs[0].name),
                expert=int(match["expert"]),
            )


def weight_data(value: ir.Value) -> ir.ExternalTensor:
    """Where an initializer's bytes are."""
    assert isinstance(value.const_value, ir.ExternalTensor)
    return value.const_value


def _is_weight(value: ir.Value | None) -> bool:
    return value is not None and isinstance(value.const_value, ir.ExternalTensor)

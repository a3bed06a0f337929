"""Ranges of activations, from runs of the float portable variant over text, one document at a time.

A document is run alone, so nothing is padded: every row that a product reads is a token's. What is kept are histograms
of one size for each tensor and, for experts, for each expert: memory does not depend on how much text is run.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pointsman.bundle import Architecture, Role, names
from pointsman_calib.corpus.batches import Batch
from pointsman_calib.graphs.pieces import Array, Values
from pointsman_calib.graphs.products import Product, values_of
from pointsman_calib.ranges import RangeObserver
from pointsman_calib.ranges.table import TensorRange, tensor_range

EXPERT_BINS: Final = 512  # an expert's histogram is small, since thousands of experts have two each


def expert_tensor(tensor: str, expert: int) -> str:
    """Name of one expert's part of a tensor in a range table."""
    return f"{tensor}[{expert}]"


class ModelObserver:
    """What was seen of the inputs of a variant's products so far.

    Attributes:
        products: whose inputs are observed.
        observers: by name of the tensor, for experts also by `expert_tensor`.
        coverage: for each sparse layer, the tokens that each expert was given, int64 [experts].
        sequences: documents run.
        source_tokens: of the encoder.
        target_tokens: of the decoder.
    """

    def __init__(self, products: Iterable[Product], architecture: Architecture, capacity: int | None) -> None:
        """Start with nothing seen.

        Args:
            products: of both graphs.
            architecture: of the variant.
            capacity: tokens that an expert accepts from one sequence; None for no limit.
        """
        self.products = tuple({product.tensor: product for product in products}.values())
        self.capacity = capacity
        experts = architecture.num_experts
        self.observers = {product.tensor: RangeObserver(product.tensor) for product in self.products}
        layers = {product.layer for product in self.products if product.layer is not None}
        self.coverage = {layer: np.zeros(experts, np.int64) for layer in sorted(layers)}
        for product in self.products:
            if product.layer is not None:
                tensors = (expert_tensor(product.tensor, expert) for expert in range(experts))
                self.observers.update((tensor, RangeObserver(tensor, EXPERT_BINS)) for tensor in tensors)
        self.sequences = self.source_tokens = self.target_tokens = 0

    def taps(self) -> dict[Role, set[str]]:
        """The values that `observe` wants, of each graph."""
        return values_of(self.products)

    def observe(self, role: Role, values: Values) -> None:
        """Take tapped values of one document's run into account.

        Args:
            role: of the graph that they are of.
            values: all that is tapped of one piece of it.

        Raises:
            BundleError: a value is NaN or infinite.
        """
        counted = {layer: self._given(layer, values) for layer in self.coverage if names.expert_choice(layer) in values}
        for product in self.products:
            if product.role != role or product.inputs not in values:
                continue
            inputs = values[product.inputs]
            if product.layer is None:
                self.observers[product.tensor].update(inputs)
                continue
            for expert, rows in expert_rows(product, inputs, counted[product.layer], values):
                self.observers[product.tensor].update(rows)
                self.observers[expert_tensor(product.tensor, expert)].update(rows)
        for layer, given in counted.items():
            self.coverage[layer] += given

    def count(self, document: Batch) -> None:
        """Count a document, alone in its batch, of which all pieces were observed."""
        self.sequences += 1
        self.source_tokens += document.input_ids.size
        self.target_tokens += document.decoder_input_ids.size

    def rows(self, percentile: float) -> dict[str, TensorRange]:
        """What a range table says of every tensor."""
        return {name: tensor_range(observer, percentile) for name, observer in self.observers.items()}

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything seen as arrays, for `numpy.savez`; always of the same size."""
        arrays = {f"coverage/{layer}": given for layer, given in self.coverage.items()}
        for name, observer in self.observers.items():
            arrays.update((f"observers/{name}/{part}", array) for part, array in observer.state().items())
        arrays["totals"] = np.array([self.sequences, self.source_tokens, self.target_tokens], np.int64)
        return arrays

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from where `state` was taken, with an observer of the same products.

        Raises:
            KeyError: the state is of other products.
        """
        coverage = {layer: state[f"coverage/{layer}"] for layer in self.coverage}
        observers = {}
        for name in self.observers:
            parts = {part: state[f"observers/{name}/{part}"] for part in ("counts", "totals", "extremes")}
            observers[name] = RangeObserver.from_state(name, parts)
        self.coverage, self.observers = coverage, observers
        self.sequences, self.source_tokens, self.target_tokens = map(int, state["totals"])

    def _given(self, layer: str, values: Values) -> NDArray[np.int64]:
        """Tokens that each expert of a layer accepts."""
        chosen = _chosen(layer, values)
        given = np.bincount(chosen, minlength=self.coverage[layer].size)
        return given if self.capacity is None else np.minimum(given, self.capacity)


def expert_rows(
    product: Product, inputs: Array, given: NDArray[np.int64], values: Values
) -> Iterator[tuple[int, Array]]:
    """Each expert that was given tokens, and the rows [tokens, inputs] of them that its product reads.

    Args:
        product: of a sparse layer.
        inputs: buckets [experts, tokens, inputs], or a row for each token, [tokens, 1, inputs].
        given: tokens that each expert accepted, int64 [experts].
        values: of the run, with the layer's choice of experts.
    """
    assert product.layer is not None
    chosen = _chosen(product.layer, values)
    for expert in map(int, np.flatnonzero(given)):
        accepted = np.flatnonzero(chosen == expert)[: given[expert]]
        yield expert, inputs[accepted, 0] if product.gathered else inputs[expert, : accepted.size]


def _chosen(layer: str, values: Values) -> NDArray[np.int64]:
    chosen: NDArray[np.int64] = values[names.expert_choice(layer)].reshape(-1)
    return chosen

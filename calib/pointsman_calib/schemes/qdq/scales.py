"""From a range table to the scales of activations, with one range for each expert where it saw enough tokens.

All experts of a layer share one product, and so one activation scale. What an expert's output projection reads is
brought to the layer's range by a factor for each expert. A factor costs nothing at run time: it goes into the scales of
the expert's weights, before and after the activation function, which must let it through. ReLU does, and a gate does by
its linear half (the cross-layer equalization of Nagel et al. 2019, "Data-Free Quantization through Weight Equalization
and Bias Correction", §4.1, by expert instead of by channel).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pointsman.bundle import Architecture, names
from pointsman.errors import OptionsError
from pointsman_calib.graphs.products import Product
from pointsman_calib.ranges import METHODS, Method
from pointsman_calib.ranges.collector import expert_tensor
from pointsman_calib.ranges.table import RangeTable

LARGEST_CODE: Final = 127

Factors = Mapping[str, NDArray[np.float32]]
"""By weight name, what each expert's weights are multiplied with, float32 [experts]."""


@dataclass(frozen=True, slots=True)
class Clipping:
    """How ranges become scales.

    Attributes:
        method: which of the table's ranges.
        fewest_tokens: an expert that was given fewer has its layer's range.
        most_thin: share of all experts that may have been given fewer, 0 … 1.
    """

    method: Method = "mse"
    fewest_tokens: int = 64
    most_thin: float = 0.5

    def check(self) -> None:
        """Refuse values out of range.

        Raises:
            OptionsError: one is.
        """
        if self.method not in METHODS:
            raise OptionsError(f"unknown range method {self.method!r}; use {', '.join(METHODS)}")
        if self.fewest_tokens < 0:
            raise OptionsError(f"the fewest tokens of an expert are {self.fewest_tokens}; give 0 or more")
        if not 0 <= self.most_thin <= 1:
            raise OptionsError(f"the share of thin experts is {self.most_thin:g}; give 0 to 1")


DEFAULT: Final = Clipping()


def activation_scales(table: RangeTable, products: Iterable[Product], method: Method) -> dict[str, np.float32]:
    """The scale of each product's inputs, by the tensor's name in the table; 1 where all were zero.

    Raises:
        BundleError: the table is not of these products.
    """
    ranges = {product.tensor: table.amax(product.tensor, method) for product in products}
    return {tensor: np.float32(amax / LARGEST_CODE if amax > 0 else 1) for tensor, amax in ranges.items()}


def expert_factors(
    table: RangeTable, products: Iterable[Product], architecture: Architecture, clipping: Clipping
) -> dict[str, NDArray[np.float32]]:
    """What brings each expert's inner activations to the layer's range, for the weights on both sides of them."""
    before = scaled_projection(architecture)
    factors: dict[str, NDArray[np.float32]] = {}
    if before is None:
        return factors
    for product in products:
        layer = product.layer
        if layer is not None and product.weight == names.stacked_weight(layer, names.OUTPUT_PROJECTION):
            excess = np.fromiter(_excesses(table, product, clipping), np.float32)
            factors[product.weight] = excess
            factors[names.stacked_weight(layer, before)] = np.float32(1) / excess
    return factors


def scaled_projection(architecture: Architecture) -> str | None:
    """The input projection whose output may be scaled for the experts' inner activations to scale; None if none may."""
    if architecture.gated:
        return "wi_1"
    return "wi" if architecture.activation == "relu" else None


def _excesses(table: RangeTable, product: Product, clipping: Clipping) -> Iterator[float]:
    """How many times the layer's range each expert's is; 1 for an expert without a range of its own."""
    assert product.layer is not None
    whole = table.amax(product.tensor, clipping.method)
    for expert, tokens in enumerate(table.coverage[product.layer]):
        own = table.amax(expert_tensor(product.tensor, expert), clipping.method) if tokens > 0 else 0.0
        yield own / whole if tokens >= clipping.fewest_tokens and own > 0 else 1.0

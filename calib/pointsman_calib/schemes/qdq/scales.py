"""From a range table to the scales of activations, with one range for each expert where it saw enough tokens.

All experts of a layer share one product, and so one activation scale. What an expert's output projection reads is
brought to the layer's range by a factor for each expert. A factor costs nothing at run time: it goes into the scales of
the expert's weights, before and after the activation function, which must let it through. ReLU does, and a gate does by
its linear half (the cross-layer equalization of Nagel et al. 2019, "Data-Free Quantization through Weight Equalization
and Bias Correction", §4.1, by expert instead of by channel).
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pointsman.bundle import Architecture, ExpertCoverage, names
from pointsman_calib.graphs.products import Product
from pointsman_calib.ranges import Method
from pointsman_calib.ranges.observation import expert_tensor
from pointsman_calib.ranges.table import RangeTable
from pointsman_calib.rounding import LARGEST_INT8

DEFAULT_METHOD: Final[Method] = "mse"

Factors = Mapping[str, NDArray[np.float32]]
"""By weight name, what each expert's weights are multiplied with, float32 [experts]."""


def activation_scales(table: RangeTable, products: Iterable[Product], method: Method) -> dict[str, np.float32]:
    """The scale of each product's inputs, by the tensor's name in the table; 1 where all were zero.

    Raises:
        BundleError: the table is not of these products.
    """
    ranges = {product.tensor: table.amax(product.tensor, method) for product in products}
    return {tensor: np.float32(amax / LARGEST_INT8 if amax > 0 else 1) for tensor, amax in ranges.items()}


def expert_factors(
    table: RangeTable,
    products: Iterable[Product],
    architecture: Architecture,
    coverage: ExpertCoverage,
    method: Method,
) -> dict[str, NDArray[np.float32]]:
    """What brings each expert's inner activations to the layer's range, for the weights on both sides of them."""
    before = scaled_projection(architecture)
    factors: dict[str, NDArray[np.float32]] = {}
    if before is None:
        return factors
    for product in products:
        layer = product.layer
        if layer is not None and product.weight == names.stacked_experts(layer, names.OUTPUT_PROJECTION):
            excess = np.fromiter(_excesses(table, product, coverage, method), np.float32)
            factors[product.weight] = excess
            factors[names.stacked_experts(layer, before)] = np.float32(1) / excess
    return factors


def scaled_projection(architecture: Architecture) -> str | None:
    """The input projection whose output may be scaled for the experts' inner activations to scale; None if none may."""
    if architecture.gated:
        return "wi_1"
    return "wi" if architecture.activation == "relu" else None


def _excesses(table: RangeTable, product: Product, coverage: ExpertCoverage, method: Method) -> Iterator[float]:
    """How many times the layer's range each expert's is; 1 for an expert without a range of its own."""
    assert product.layer is not None
    whole, thin = table.amax(product.tensor, method), coverage.thin[product.layer]
    for expert, tokens in enumerate(coverage.tokens[product.layer]):
        own = table.amax(expert_tensor(product.tensor, expert), method) if tokens > 0 and expert not in thin else 0.0
        yield own / whole if own > 0 else 1.0

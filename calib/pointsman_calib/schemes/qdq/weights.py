"""Weights as INT8 codes with a scale for each output, or each expert and output, streamed into one file."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from pointsman.bundle import ROLES, Architecture
from pointsman.bundle.writing import TensorFile
from pointsman_calib.graphs.external_data import append_rows, append_tensor, in_file_order, read_row, read_tensor
from pointsman_calib.graphs.products import Product
from pointsman_calib.rounding import round_per_channel
from pointsman_calib.schemes.qdq.scales import Factors


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A weight in the new file.

    Attributes:
        codes: int8, of the weight's shape.
        scales: float32: [out], or [experts, 1, out].
        axis: of the codes, that scales run along; for experts, the one that they share a scale along.
    """

    codes: ir.ExternalTensor
    scales: ir.ExternalTensor
    axis: int

    @property
    def block_size(self) -> int | None:
        """For experts, how many codes along the axis share a scale: all. One scale for each output is no block."""
        shape = self.codes.shape.numpy()
        return shape[self.axis] if len(shape) == 3 else None


def output_axes(products: Iterable[Product], architecture: Architecture) -> dict[str, int]:
    """The output axis of every weight to quantize; embeddings have a scale for each row, as a tied head wants it."""
    embeddings = dict.fromkeys(map(architecture.embedding, ROLES), 0)
    return embeddings | {product.weight: product.output_axis for product in products}


def write_weights(
    models: Iterable[ir.Model],
    axes: Mapping[str, int],
    factors: Factors,
    path: Path,
    *,
    progress: Callable[[int], object],
) -> tuple[dict[str, QuantizedWeight], dict[str, ir.ExternalTensor], str]:
    """Write every tensor that the models read, quantized or as it is, in the order of the file they come from.

    Args:
        models: the float graphs.
        axes: output axis of each weight that is to be quantized: 0 or 1 of a matrix, 2 of a stack of experts.
        factors: of experts.
        path: the new external-data file.
        progress: called with the bytes read after each tensor.

    Returns:
        the quantized weights, the others, and the file's sha256.

    Raises:
        BundleError: a weight is NaN or infinite.
    """
    quantized: dict[str, QuantizedWeight] = {}
    kept: dict[str, ir.ExternalTensor] = {}
    with path.open("wb") as file:
        writer = TensorFile(file)
        for name, tensor in in_file_order(models):
            if name not in axes:
                kept[name] = append_tensor(writer, path, name, read_tensor(tensor))
            elif axes[name] == 2:
                quantized[name] = _append_experts(writer, path, name, tensor, factors.get(name))
            else:
                quantized[name] = _append_matrix(writer, path, name, read_tensor(tensor), axes[name])
            progress(tensor.nbytes)
    return quantized, kept, writer.sha256


def _append_matrix(writer: TensorFile, path: Path, name: str, weight: NDArray[Any], axis: int) -> QuantizedWeight:
    rounded = round_per_channel(weight, (axis,), search=True)
    codes = append_tensor(writer, path, f"{name}.codes", rounded.codes)
    return QuantizedWeight(codes, append_tensor(writer, path, f"{name}.scales", rounded.scales.reshape(-1)), axis)


def _append_experts(
    writer: TensorFile, path: Path, name: str, tensor: ir.ExternalTensor, factors: NDArray[np.float32] | None
) -> QuantizedWeight:
    """Round the experts of a layer one by one; codes do not depend on an expert's factor, only scales do."""
    scales: list[NDArray[np.float32]] = []

    def codes() -> Iterator[NDArray[np.int8]]:
        for expert in range(experts):
            rounded = round_per_channel(read_row(tensor, expert), (1,), search=True)
            scales.append(rounded.scales if factors is None else rounded.scales * factors[expert])
            yield rounded.codes

    experts, inputs, out = tensor.shape.numpy()
    stored = append_rows(writer, path, f"{name}.codes", codes(), (experts, inputs, out))
    return QuantizedWeight(stored, append_tensor(writer, path, f"{name}.scales", np.stack(scales)), 1)

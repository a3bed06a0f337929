"""Weight-only quantization of the fused form: MatMul becomes MatMulNBits, and the embedding is gathered from codes.

Weights are read, rounded and written one at a time. The operators are ONNX Runtime's (domain com.microsoft); with
accuracy level 4 they round activations to int8 in the same blocks and multiply int8 by int8.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from pointsman.writing import TensorFile
from pointsman_calib.external_data import append_tensor, in_file_order, read_tensor
from pointsman_calib.weight_rounding import BlockFormat, BlockQuantized

DOMAIN = "com.microsoft"
INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy_level

Rounding = Callable[[str, NDArray[np.float32], BlockFormat], BlockQuantized]
"""Rounds a named weight [inputs, out] in a format."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A float weight that can be quantized.

    Attributes:
        name: of the initializer.
        inputs: rows of the product's right side.
        out: its columns.
        transposed: whether it is stored [out, inputs], as an embedding that is also the head is.
        gathered: whether rows of it are also looked up.
    """

    name: str
    inputs: int
    out: int
    transposed: bool
    gathered: bool


@dataclass(frozen=True, slots=True)
class Rounded:
    """A quantized weight in the new file."""

    weight: Weight
    form: BlockFormat
    codes: ir.ExternalTensor
    scales: ir.ExternalTensor


def quantizable(models: Iterable[ir.Model]) -> dict[str, Weight]:
    """Float32 weights that only products and look-ups read, by name; routers are not among them, nor norms."""
    uses: dict[str, list[ir.Node]] = {}
    tensors: dict[str, ir.ExternalTensor] = {}
    for model in models:
        for node in ir.traversal.RecursiveGraphIterator(model.graph):
            for value in node.inputs:
                if value is not None and isinstance(value.const_value, ir.ExternalTensor):
                    uses.setdefault(str(value.name), []).append(node)
                    tensors[str(value.name)] = value.const_value
    found = (_weight(name, tensors[name], nodes) for name, nodes in uses.items())
    return {weight.name: weight for weight in found if weight is not None}


def _weight(name: str, tensor: ir.ExternalTensor, nodes: list[ir.Node]) -> Weight | None:
    kinds = {node.op_type for node in nodes}
    if ".router." in name or tensor.dtype != ir.DataType.FLOAT or len(tensor.shape) != 2:
        return None
    rows, columns = tensor.shape.numpy()
    if kinds == {"MatMul"}:
        return Weight(name, rows, columns, transposed=False, gathered=False)
    if "Gemm" in kinds and kinds <= {"Gemm", "Gather"}:
        return Weight(name, columns, rows, transposed=True, gathered="Gather" in kinds)
    return None


def write_weights(
    models: Iterable[ir.Model],
    formats: Mapping[str, BlockFormat],
    weights: Mapping[str, Weight],
    rounding: Rounding,
    path: Path,
    *,
    progress: Callable[[int], object],
) -> tuple[dict[str, Rounded], dict[str, ir.ExternalTensor], str]:
    """Write every tensor that the models read, quantized or as it is, in the order of the file they come from.

    Args:
        models: the float graphs.
        formats: of the weights that are to be quantized.
        weights: all that could be.
        rounding: how.
        path: the new external-data file.
        progress: called with the bytes read after each tensor.

    Returns:
        the quantized weights, the others, and the file's sha256.
    """
    rounded: dict[str, Rounded] = {}
    kept: dict[str, ir.ExternalTensor] = {}
    with path.open("wb") as file:
        writer = TensorFile(file)
        for name, tensor in in_file_order(models):
            array = read_tensor(tensor)
            if name in formats:
                rounded[name] = _write_rounded(writer, weights[name], array, formats[name], rounding, path)
            else:
                kept[name] = append_tensor(writer, path, name, array)
            progress(array.nbytes)
    return rounded, kept, writer.sha256


def _write_rounded(
    writer: TensorFile, weight: Weight, array: NDArray[np.float32], form: BlockFormat, rounding: Rounding, path: Path
) -> Rounded:
    result = rounding(weight.name, array.T if weight.transposed else array, form)
    codes = append_tensor(writer, path, f"{weight.name}.codes", result.packed_codes())
    scales = append_tensor(writer, path, f"{weight.name}.scales", result.scales)
    return Rounded(weight, form, codes, scales)


def rewrite(model: ir.Model, rounded: Mapping[str, Rounded], kept: Mapping[str, ir.ExternalTensor]) -> None:
    """Point a float graph, in place, at the new file; products and look-ups of quantized weights become theirs."""
    graph = model.graph
    for node in list(ir.traversal.RecursiveGraphIterator(graph)):
        for name in {str(value.name) for value in node.inputs if value is not None} & rounded.keys():
            _replace(graph, node, rounded[name])
    for name, value in list(graph.initializers.items()):
        if name in rounded:
            del graph.initializers[name]
        elif name in kept:
            value.const_value = kept[name]
    model.opset_imports[DOMAIN] = 1


def _replace(graph: ir.Graph, node: ir.Node, weight: Rounded) -> None:
    if node.op_type == "Gather":
        codes = _flat(weight)
        attributes = {"bits": 8, "block_size": weight.form.block_size, "gather_axis": 0, "quantize_axis": 1}
        operator, inputs = "GatherBlockQuantized", [_initializer(graph, codes), node.inputs[1]]
    else:
        attributes = {
            "K": weight.weight.inputs,
            "N": weight.weight.out,
            "bits": weight.form.bits,
            "block_size": weight.form.block_size,
            "accuracy_level": INT8_ACTIVATIONS,
        }
        operator, inputs = "MatMulNBits", [node.inputs[0], _initializer(graph, weight.codes)]
    new = ir.node(operator, [*inputs, _initializer(graph, weight.scales)], attributes, domain=DOMAIN, name=node.name)
    new.outputs[0].name, new.outputs[0].shape, new.outputs[0].type = (
        node.outputs[0].name,
        node.outputs[0].shape,
        node.outputs[0].type,
    )
    home = node.graph
    assert isinstance(home, ir.Graph)
    ir.convenience.replace_nodes_and_values(home, node, [node], [new], node.outputs, new.outputs)


def _flat(weight: Rounded) -> ir.ExternalTensor:
    """The codes as [out, inputs]: the same bytes, for looking up rows."""
    codes = weight.codes
    shape = ir.Shape([weight.weight.out, weight.weight.inputs])
    return ir.ExternalTensor(
        codes.location,
        codes.offset,
        codes.length,
        codes.dtype,
        shape=shape,
        name=f"{weight.weight.name}.rows",
        base_dir=codes.base_dir,
    )


def _initializer(graph: ir.Graph, tensor: ir.ExternalTensor) -> ir.Value:
    if tensor.name not in graph.initializers:
        value = ir.Value(name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        graph.register_initializer(value)
    return graph.initializers[tensor.name]


def embedding_format(weight: Weight, largest: int = 128) -> BlockFormat | None:
    """INT8 in the largest blocks that divide a row, since looked-up rows are not padded; None if none does."""
    sizes: Iterator[int] = (size for size in (128, 64, 32, 16) if size <= largest and weight.inputs % size == 0)
    size = next(sizes, None)
    return None if size is None else BlockFormat(bits=8, block_size=size)

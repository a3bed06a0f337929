"""Weight-only quantization of the fused form: MatMul becomes MatMulNBits, and the embedding is gathered from codes.

Weights are read, rounded and written one at a time.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from pointsman.bundle import Role
from pointsman.bundle.names import EMBEDDINGS
from pointsman.bundle.writing import TensorFile
from pointsman_calib.graphs.external_data import append_tensor, in_file_order, read_tensor
from pointsman_calib.graphs.products import Product, is_weight, products
from pointsman_calib.rounding import BlockFormat
from pointsman_calib.schemes.weight_only.operators import DOMAIN, Expression, Operand


class Packable(Protocol):
    """A quantized weight in the operator's layout; see `BlockQuantized`."""

    @property
    def scales(self) -> NDArray[np.float32]:
        """[out, blocks]."""
        ...

    def packed_codes(self) -> NDArray[np.uint8]:
        """[out, blocks, bytes]."""
        ...


Rounding = Callable[[str, NDArray[np.float32], BlockFormat], Packable]
"""Rounds a named weight [inputs, out] in a format."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A float weight that can be quantized.

    Attributes:
        name: of the initializer.
        inputs: rows of the product's right side.
        out: its columns.
        transposed: whether it is stored [out, inputs], as embeddings are, which may also be the head.
        gathered: whether rows of it are looked up.
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

    def at(self, path: Path) -> "Rounded":
        """The same in another file of the same bytes."""
        return replace(self, codes=_at(self.codes, path), scales=_at(self.scales, path))


Parts = dict[tuple[object, ir.Value, int], ir.Value]
"""Of a graph or branch, a value and a block size, the value in two int8 parts."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What was written into an external-data file.

    Attributes:
        rounded: the quantized weights, by name.
        kept: all other tensors, by name.
        sha256: of the file.
    """

    rounded: Mapping[str, Rounded]
    kept: Mapping[str, ir.ExternalTensor]
    sha256: str


def quantizable(models: Mapping[Role, ir.Model]) -> dict[str, Weight]:
    """Weights of products and embeddings, by name, with what else reads them; not routers, nor norms."""
    looked_up = {name: shape for model in models.values() for name, shape in _looked_up(model.graph)}
    embeddings = {name: shape for name, shape in looked_up.items() if name in EMBEDDINGS}
    only_looked_up = {
        name: Weight(name, width, rows, transposed=True, gathered=True) for name, (rows, width) in embeddings.items()
    }
    return only_looked_up | {
        product.weight: _weight(product, model.graph, gathered=product.weight in looked_up)
        for role, model in models.items()
        for product in products(model.graph, role)
    }


def _looked_up(graph: ir.Graph) -> Iterator[tuple[str, tuple[int, int]]]:
    """Matrices of which rows are gathered, and their shapes."""
    for node in graph:
        value = node.inputs[0] if node.op_type == "Gather" else None
        if value is not None and is_weight(value) and value.shape is not None and len(value.shape) == 2:
            rows, width = value.shape.numpy()
            yield str(value.name), (rows, width)


def _weight(product: Product, graph: ir.Graph, *, gathered: bool) -> Weight:
    shape = graph.initializers[product.weight].shape
    assert shape is not None
    out = shape.numpy()[product.output_axis]
    return Weight(product.weight, product.width, out, transposed=product.output_axis == 0, gathered=gathered)


def write_weights(
    models: Iterable[ir.Model],
    formats: Mapping[str, BlockFormat],
    weights: Mapping[str, Weight],
    rounding: Rounding,
    path: Path,
    *,
    progress: Callable[[int], object],
) -> Contents:
    """Write every tensor that the models read, quantized or as it is, in the order of the file they come from.

    Args:
        models: the float graphs.
        formats: of the weights that are to be quantized.
        weights: all that could be.
        rounding: how.
        path: the new external-data file.
        progress: called with the bytes read after each tensor.
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
    return Contents(rounded, kept, writer.sha256)


def _write_rounded(
    writer: TensorFile, weight: Weight, array: NDArray[np.float32], form: BlockFormat, rounding: Rounding, path: Path
) -> Rounded:
    result = rounding(weight.name, array.T if weight.transposed else array, form)
    codes = append_tensor(writer, path, f"{weight.name}.codes", result.packed_codes())
    scales = append_tensor(writer, path, f"{weight.name}.scales", result.scales)
    return Rounded(weight, form, codes, scales)


def rewrite(model: ir.Model, contents: Contents, fine_inputs: Set[str]) -> None:
    """Point a float graph, in place, at the new file; products and look-ups of quantized weights become theirs.

    Args:
        model: the graph.
        contents: of the file.
        fine_inputs: quantized weights whose inputs come in two int8 parts.
    """
    graph, rounded, kept = model.graph, contents.rounded, contents.kept
    parts: Parts = {}
    for node in list(ir.traversal.RecursiveGraphIterator(graph)):
        for name in {str(value.name) for value in node.inputs if value is not None} & rounded.keys():
            _replace(graph, node, rounded[name], parts if name in fine_inputs else None)
    for name, value in list(graph.initializers.items()):
        if name in rounded:
            del graph.initializers[name]
        elif name in kept:
            value.const_value = kept[name]
    model.opset_imports[DOMAIN] = 1


def _replace(graph: ir.Graph, node: ir.Node, weight: Rounded, parts: Parts | None) -> None:
    """Put a quantized product or look-up in a node's place; the inputs come in `parts` where these are given."""
    (old,) = node.outputs
    expression = Expression(str(node.name))
    inputs = [value for value in node.inputs if value is not None]
    if node.op_type == "Gather":
        rows, scales = _initializer(graph, _flat(weight)), _initializer(graph, weight.scales)
        new = expression.lookup(rows, scales, inputs[1], weight.form.block_size)
    else:
        operand = _operand(graph, weight)
        if parts is None or not operand.has_whole_blocks:
            new = expression.product(inputs[0], operand)
        else:
            new = expression.fine_product(_parts(expression, node, inputs[0], operand, parts), operand)
    new.name, new.shape, new.type = old.name, old.shape, old.type
    assert isinstance(node.graph, ir.Graph)
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], expression.nodes, [old], [new])


def _parts(expression: Expression, node: ir.Node, inputs: ir.Value, weight: Operand, parts: Parts) -> ir.Value:
    """The inputs in two parts, made once for all products of them in blocks of one size."""
    key = (node.graph, inputs, weight.form.block_size)
    if key not in parts:
        parts[key] = expression.parts(inputs, weight)
    return parts[key]


def _operand(graph: ir.Graph, weight: Rounded) -> Operand:
    codes, scales = _initializer(graph, weight.codes), _initializer(graph, weight.scales)
    return Operand(codes, scales, weight.form, weight.weight.inputs, weight.weight.out)


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


def _at(tensor: ir.ExternalTensor, path: Path) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        path.name,
        tensor.offset,
        tensor.length,
        tensor.dtype,
        shape=tensor.shape,
        name=tensor.name or "",
        base_dir=path.parent,
    )


def _initializer(graph: ir.Graph, tensor: ir.ExternalTensor) -> ir.Value:
    if tensor.name not in graph.initializers:
        value = ir.Value(name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        graph.register_initializer(value)
    return graph.initializers[tensor.name]

"""Weight-only quantization of the fused form: products and look-ups become those of codes.

Weights are read, rounded and written one at a time.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from pointsman.bundle import Role
from pointsman.bundle.names import EMBEDDINGS
from pointsman.bundle.writing import TensorFile
from pointsman_calib.graphs.expression import DOMAIN, Expression
from pointsman_calib.graphs.external_data import append_tensor, in_file_order, read_tensor
from pointsman_calib.graphs.products import Product, is_weight, products
from pointsman_calib.rounding import BlockFormat, round_blocks
from pointsman_calib.schemes.weight_only.block_products import BlockWeight
from pointsman_calib.schemes.weight_only.integer_products import IntegerWeight
from pointsman_calib.schemes.weight_only.shared_inputs import SharedInputs


class Packable(Protocol):
    """A quantized weight in the layout of its product; see `BlockQuantized`."""

    @property
    def scales(self) -> NDArray[np.float32]:
        """[out, blocks]."""
        ...

    def packed_codes(self) -> NDArray[np.uint8]:
        """[out, blocks, bytes]."""
        ...

    def signed_codes(self) -> NDArray[np.int8]:
        """[inputs, out], where a column has one scale."""
        ...


Rounding = Callable[[str, NDArray[np.float32], BlockFormat], Packable]
"""Rounds a named weight [inputs, out] in a format."""


@dataclass(frozen=True, slots=True)
class Formats:
    """How a weight is quantized.

    Attributes:
        product: as a factor; None where it is none, or stays in float.
        lookup: as a table of which rows are gathered, in INT8; likewise.
    """

    product: BlockFormat | None = None
    lookup: BlockFormat | None = None

    def __str__(self) -> str:
        """For a manifest."""
        return ", ".join(dict.fromkeys(str(form) for form in (self.product, self.lookup) if form is not None))


@dataclass(frozen=True, slots=True)
class Weight:
    """A float weight that can be quantized.

    Attributes:
        name: of the initializer.
        inputs: rows of the product's right side.
        out: its columns.
        transposed: whether it is stored [out, inputs], as embeddings are, which may also be the head.
        gathered: whether rows of it are looked up.
        multiplied: whether it is a factor of products.
    """

    name: str
    inputs: int
    out: int
    transposed: bool
    gathered: bool
    multiplied: bool = True


@dataclass(frozen=True, slots=True)
class Codes:
    """Quantized numbers in the new file.

    Attributes:
        form: how they were quantized.
        codes: int8 [inputs, out] where a column has one scale, uint8 [out, blocks, bytes] where it has blocks.
        scales: float32 [out], or [out, blocks].
    """

    form: BlockFormat
    codes: ir.ExternalTensor
    scales: ir.ExternalTensor

    def at(self, path: Path) -> "Codes":
        """The same in another file of the same bytes."""
        return replace(self, codes=_at(self.codes, path), scales=_at(self.scales, path))


@dataclass(frozen=True, slots=True)
class Rounded:
    """A quantized weight in the new file, as a factor and as a table of rows."""

    weight: Weight
    product: Codes | None
    lookup: Codes | None

    @property
    def formats(self) -> Formats:
        """How it was quantized."""
        product = None if self.product is None else self.product.form
        return Formats(product, None if self.lookup is None else self.lookup.form)

    def at(self, path: Path) -> "Rounded":
        """The same in another file of the same bytes."""
        return replace(
            self, product=self.product and self.product.at(path), lookup=self.lookup and self.lookup.at(path)
        )


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
        name: Weight(name, width, rows, transposed=True, gathered=True, multiplied=False)
        for name, (rows, width) in embeddings.items()
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
    formats: Mapping[str, Formats],
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
            progress(tensor.nbytes)
    return Contents(rounded, kept, writer.sha256)


def _write_rounded(
    writer: TensorFile, weight: Weight, array: NDArray[np.float32], formats: Formats, rounding: Rounding, path: Path
) -> Rounded:
    """Write a weight: as a factor, rounded as asked for; as a table, to nearest, since no sum makes up for anything."""
    matrix = array.T if weight.transposed else array
    product, lookup = None, None
    if (form := formats.product) is not None:
        result = rounding(weight.name, matrix, form)
        whole = form.block_size is None
        codes = append_tensor(
            writer, path, f"{weight.name}.codes", result.signed_codes() if whole else result.packed_codes()
        )
        scales = result.scales.reshape(-1) if whole else result.scales
        product = Codes(form, codes, append_tensor(writer, path, f"{weight.name}.scales", scales))
    if (form := formats.lookup) is not None:
        table = round_blocks(matrix, form)
        rows = append_tensor(writer, path, f"{weight.name}.rows", table.packed_codes().reshape(weight.out, -1))
        lookup = Codes(form, rows, append_tensor(writer, path, f"{weight.name}.row_scales", table.scales))
    return Rounded(weight, product, lookup)


def rewrite(model: ir.Model, contents: Contents, fine_inputs: Set[str]) -> None:
    """Point a float graph, in place, at the new file; products and look-ups of quantized weights become theirs.

    Args:
        model: the graph.
        contents: of the file.
        fine_inputs: quantized weights whose inputs come in two parts.
    """
    graph, rounded, kept = model.graph, contents.rounded, contents.kept
    inputs = SharedInputs(graph)
    for node in list(ir.traversal.RecursiveGraphIterator(graph)):
        for name in {str(value.name) for value in node.inputs if value is not None} & rounded.keys():
            _replace(graph, node, rounded[name], inputs, fine=name in fine_inputs)
    for name, value in list(graph.initializers.items()):
        if name in rounded:
            del graph.initializers[name]
        elif name in kept:
            value.const_value = kept[name]
    RemoveUnusedNodesPass()(model)  # what products have taken over; ONNX Runtime runs nodes that nobody reads
    model.opset_imports[DOMAIN] = 1


def _replace(graph: ir.Graph, node: ir.Node, weight: Rounded, inputs: SharedInputs, *, fine: bool) -> None:
    """Put a quantized product or look-up in a node's place."""
    (old,) = node.outputs
    expression = Expression(str(node.name), graph)
    if node.op_type == "Gather":
        assert node.inputs[1] is not None
        new = _lookup(graph, expression, weight, node.inputs[1])
    else:
        new = _product(graph, node, expression, weight, inputs, fine=fine)
    new.name, new.shape, new.type = old.name, old.shape, old.type
    assert isinstance(node.graph, ir.Graph)
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], expression.nodes, [old], [new])


def _lookup(graph: ir.Graph, expression: Expression, weight: Rounded, indices: ir.Value) -> ir.Value:
    table = weight.lookup
    assert table is not None
    assert table.form.block_size is not None
    rows, scales = _initializer(graph, table.codes), _initializer(graph, table.scales)
    return expression.lookup(rows, scales, indices, table.form.block_size)


def _product(
    graph: ir.Graph, node: ir.Node, expression: Expression, weight: Rounded, inputs: SharedInputs, *, fine: bool
) -> ir.Value:
    """A product whose inputs are prepared once for all products of one sort."""
    assert weight.product is not None
    operand = _operand(node, graph, weight.weight, weight.product)
    fine = fine and operand.can_be_fine
    return operand.product(expression, inputs.of(node, expression, operand, fine=fine), fine=fine)


def _operand(node: ir.Node, graph: ir.Graph, weight: Weight, codes: Codes) -> BlockWeight | IntegerWeight:
    # Where products of bytes saturate, ONNX Runtime rewrites weights of the graph that a product is in, no others. And
    # what is two branches above a product is not laid out for it, without which `MatMulNBits` takes 100 times as long.
    assert isinstance(node.graph, ir.Graph)
    scales, held, form = _initializer(graph, codes.scales), _initializer(node.graph, codes.codes), codes.form
    if form.block_size is None:
        return IntegerWeight(held, scales)
    return BlockWeight(held, scales, form.bits, form.block_size, weight.inputs, weight.out)


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

"""Weight-only quantization of the fused form: products and look-ups become those of codes.

Weights are read, rounded and written one at a time, or a few where there are many cores.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

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
from pointsman_calib.rounding.processes import suitable
from pointsman_calib.schemes.weight_only.block_products import BlockWeight
from pointsman_calib.schemes.weight_only.integer_products import IntegerWeight
from pointsman_calib.schemes.weight_only.shared_inputs import SharedInputs

_CODES, _SCALES, _ROWS, _ROW_SCALES = ".codes", ".scales", ".rows", ".row_scales"
_Arrays = dict[str, NDArray[Any]]
"""What is written of a weight, by what follows its name."""


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


RoundingOfOne = Callable[[NDArray[np.float32], BlockFormat], Packable]
"""Rounds a weight [inputs, out] in a format, in any thread."""

Rounding = Callable[[str], RoundingOfOne]
"""How a named weight is rounded; asked in the order of the weights, and never by two threads at once."""


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
        for name, tensor, arrays in _arrays(models, formats, weights, rounding):
            found = {part: append_tensor(writer, path, f"{name}{part}", array) for part, array in arrays.items()}
            if name in formats:
                rounded[name] = _rounded(weights[name], formats[name], found)
            else:
                kept[name] = found[""]
            progress(tensor.nbytes)
    return Contents(rounded, kept, writer.sha256)


def _arrays(
    models: Iterable[ir.Model], formats: Mapping[str, Formats], weights: Mapping[str, Weight], rounding: Rounding
) -> Iterator[tuple[str, ir.ExternalTensor, _Arrays]]:
    """Each tensor's name, itself, and what is written of it, in the order of the file."""
    most = suitable()
    waiting: deque[tuple[str, ir.ExternalTensor, Future[_Arrays]]] = deque()
    with ThreadPoolExecutor(most) as pool:
        try:
            for name, tensor in in_file_order(models):
                if len(waiting) == most:
                    yield _done(waiting)
                if (form := formats.get(name)) is None:
                    made = pool.submit(_whole, tensor)
                else:
                    how = None if form.product is None else rounding(name)
                    made = pool.submit(_rounded_arrays, weights[name], tensor, form, how)
                waiting.append((name, tensor, made))
            while waiting:
                yield _done(waiting)
        finally:
            pool.shutdown(cancel_futures=True)


def _done(
    waiting: deque[tuple[str, ir.ExternalTensor, Future[_Arrays]]],
) -> tuple[str, ir.ExternalTensor, _Arrays]:
    name, tensor, made = waiting.popleft()
    return name, tensor, made.result()


def _whole(tensor: ir.ExternalTensor) -> _Arrays:
    return {"": read_tensor(tensor)}


def _rounded_arrays(weight: Weight, tensor: ir.ExternalTensor, formats: Formats, how: RoundingOfOne | None) -> _Arrays:
    """Of a weight: as a factor, rounded as asked for; as a table, to nearest, since no sum makes up for anything."""
    array = read_tensor(tensor)
    arrays: _Arrays = {}
    matrix = array.T if weight.transposed else array
    if (form := formats.product) is not None:
        assert how is not None
        result, whole = how(matrix, form), form.block_size is None
        arrays[_CODES] = result.signed_codes() if whole else result.packed_codes()
        arrays[_SCALES] = result.scales.reshape(-1) if whole else result.scales
    if (form := formats.lookup) is not None:
        table = round_blocks(matrix, form)
        arrays |= {_ROWS: table.packed_codes().reshape(weight.out, -1), _ROW_SCALES: table.scales}
    return arrays


def _rounded(weight: Weight, formats: Formats, found: Mapping[str, ir.ExternalTensor]) -> Rounded:
    product, lookup = formats.product, formats.lookup
    return Rounded(
        weight,
        None if product is None else Codes(product, found[_CODES], found[_SCALES]),
        None if lookup is None else Codes(lookup, found[_ROWS], found[_ROW_SCALES]),
    )


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

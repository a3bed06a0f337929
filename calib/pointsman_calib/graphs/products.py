"""The products of a graph's activations with its weights, in both forms, and where their inputs are found.

Weights are known by the initializers that products read: directly; in a portable decoder step through the `Gather` of
each token's expert; in the fused form inside the branch of their expert. Routers are not among them: they stay in
float.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from pointsman.bundle import Role, names

_KINDS = ("MatMul", "Gemm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """One product of activations and a weight.

    Attributes:
        role: the graph it is in.
        weight: name of the initializer.
        inputs: name of the value that it multiplies: [..., width]; of all experts together, [experts, tokens, width]
            of buckets or [tokens, 1, width] of gathered experts. No run gives values inside branches: of an expert in
            its branch, the input of the sparse layer.
        width: rows of the weight.
        output_axis: the axis of the weight that is the product's output: 1 of [width, out], 0 of [out, width], 2 of
            [experts, width, out].
        layer: for experts, the sparse layer's module path, such as `encoder.block.1.layer.1.mlp`.
        gathered: for experts, whether each token's weights are gathered.
        expert: for an expert in its branch, its number.
    """

    role: Role
    weight: str
    inputs: str
    width: int
    output_axis: int
    layer: str | None = None
    gathered: bool = False
    expert: int | None = None

    @property
    def tensor(self) -> str:
        """Name of the inputs in a range table, where both graphs meet."""
        return f"{self.role}:{self.inputs}"

    @property
    def values(self) -> tuple[str, ...]:
        """The values that a run must give for its inputs to be known."""
        return (self.inputs,) if self.layer is None else (self.inputs, names.expert_choice(self.layer))


def products(graph: ir.Graph, role: Role) -> Iterator[Product]:
    """Every product of the graph with a weight, in order, but routers."""
    for node in ir.traversal.RecursiveGraphIterator(graph):
        weight, gathered = weight_of(node)
        if weight is None or names.is_router(str(weight.name)):
            continue
        if (layer := names.experts_layer(str(weight.name))) is None:
            yield _dense(role, node, weight)
        else:
            yield _of_experts(role, node, weight, layer, gathered=gathered)


def values_of(products: Iterable[Product]) -> dict[Role, set[str]]:
    """The values that runs of both graphs must give for the inputs of these products to be known."""
    wanted: dict[Role, set[str]] = {"encoder": set(), "decoder": set()}
    for product in products:
        wanted[product.role].update(product.values)
    return wanted


def sparse_layers(graph: ir.Graph) -> list[str]:
    """Module paths of the graph's sparse layers, in order."""
    layers = (names.experts_layer(name) for name in graph.initializers)
    return list(dict.fromkeys(layer for layer in layers if layer is not None))


def weight_of(node: ir.Node) -> tuple[ir.Value | None, bool]:
    """The weight that a node multiplies with, and whether rows of it are gathered first; None if there is none."""
    if node.op_type not in _KINDS:
        return None, False
    source = node.inputs[1]
    gather = source.producer() if source is not None else None
    gathered = gather is not None and gather.op_type == "Gather"
    if gather is not None and gathered:
        source = gather.inputs[0]
    return (source, gathered) if is_weight(source) else (None, False)


def is_weight(value: ir.Value | None) -> bool:
    """Whether a value is an initializer in external data."""
    return value is not None and isinstance(value.const_value, ir.ExternalTensor)


def _dense(role: Role, node: ir.Node, weight: ir.Value) -> Product:
    transposed = node.op_type == "Gemm" and node.attributes["transB"].as_int() == 1
    axis = 0 if transposed else 1
    return Product(
        role=role, weight=str(weight.name), inputs=_multiplied(node), width=_shape(weight)[1 - axis], output_axis=axis
    )


def _of_experts(role: Role, node: ir.Node, weight: ir.Value, layer: str, *, gathered: bool) -> Product:
    shape, one = _shape(weight), names.expert_of(str(weight.name))
    return Product(
        role=role,
        weight=str(weight.name),
        inputs=_multiplied(node) if one is None else names.norm_output(layer),
        width=shape[-2],
        output_axis=len(shape) - 1,
        layer=layer,
        gathered=gathered,
        expert=None if one is None else one[1],
    )


def _multiplied(node: ir.Node) -> str:
    value = node.inputs[0]
    assert value is not None
    return str(value.name)


def _shape(weight: ir.Value) -> tuple[int, ...]:
    tensor = weight.const_value
    assert tensor is not None
    return tuple(tensor.shape.numpy())

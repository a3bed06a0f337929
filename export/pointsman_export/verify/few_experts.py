"""Graphs of which a few experts are run: a layer of all can be larger than memory, and takes long to get ready.

The portable encoder runs every expert on the tokens of its bucket; buckets of experts that no token is sent to hold
zeros, and nobody reads what comes out of them. The fused form asks for each expert whether it has tokens.
"""

import contextlib
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from pointsman.bundle import names

_STACKED = 3  # axes of the weights of all experts
_TAKEN, _SKIPPED = "then_branch", "else_branch"


@contextlib.contextmanager
def pruned(graph: ir.Graph, layer: str, experts: Collection[int]) -> Iterator[None]:
    """Let the fused form's branches of other experts be what they are when these have no tokens.

    Args:
        graph: changed, and changed back at the end.
        layer: path of the experts.
        experts: their numbers.
    """
    idle = list(_idle(graph, layer, frozenset(experts)))
    taken = [node.attributes[_TAKEN] for node in idle]
    for node in idle:
        node.attributes[_TAKEN] = ir.AttrGraph(_TAKEN, node.attributes[_SKIPPED].as_graph())
    try:
        yield
    finally:
        for node, attribute in zip(idle, taken, strict=True):
            node.attributes[_TAKEN] = attribute


def _idle(nodes: Iterable[ir.Node], layer: str, experts: frozenset[int]) -> Iterator[ir.Node]:
    """The questions about other experts alone: the outermost ones."""
    for node in nodes:
        if node.op_type != "If":
            continue
        branch = node.attributes[_TAKEN].as_graph()
        found = _experts_in(branch, layer)
        if found and not found & experts:
            yield node
        elif found:
            yield from _idle(branch, layer, experts)


def _experts_in(branch: ir.Graph, layer: str) -> set[int]:
    """The experts of a layer whose weights a branch reads."""
    weights = (
        names.expert_of(value.name or "")
        for node in ir.traversal.RecursiveGraphIterator(branch)
        if node.op_type == "MatMul"
        for value in node.inputs
        if value is not None
    )
    return {found[1] for found in weights if found is not None and found[0] == layer}


def multiplied(graph: ir.Graph, layer: str) -> Sequence[ir.Node]:
    """The products of a layer's buckets with the weights of all its experts, in order; none in other forms."""
    return [
        node
        for node in graph
        if node.op_type == "MatMul"
        and (weight := node.inputs[1]) is not None
        and isinstance(weight.const_value, ir.ExternalTensor)
        and len(weight.const_value.shape) == _STACKED
        and names.experts_layer(weight.name or "") == layer
    ]


def restrict(graph: ir.Graph, products: Sequence[ir.Node], experts: Sequence[int]) -> None:
    """Multiply the buckets of these experts alone, one expert after the other.

    Args:
        graph: changed in place.
        products: from `multiplied`; the first takes the buckets, the last gives what comes out of them.
        experts: their numbers.
    """
    first, last = products[0], products[-1]
    buckets, stack = first.inputs[0], first.inputs[1]
    picked = _gathered(graph, first, buckets, experts)
    for product in products:
        rows = picked if product.inputs[0] is buckets else product.inputs[0]
        pairs = [
            [_gathered(graph, product, rows, [place]), _expert(graph, product, number)]
            for place, number in enumerate(experts)
        ]
        joined = _added(graph, product, "Concat", [_added(graph, product, "MatMul", pair) for pair in pairs], axis=0)
        if product is last:
            place_of = {number: place for place, number in enumerate(experts)}
            # Of another expert's bucket nothing is read, so it may hold anything.
            places = [place_of.get(number, 0) for number in range(_sizes(stack)[0])]
            joined = _gathered(graph, product, joined, places)
        product.outputs[0].replace_all_uses_with(joined)
    for product in products:
        graph.remove(product, safe=True)


def _gathered(graph: ir.Graph, before: ir.Node, rows: ir.Value | None, places: Sequence[int]) -> ir.Value:
    """Some of the first axis."""
    tensor = ir.tensor(np.array(places, np.int64))
    return _added(graph, before, "Gather", [rows, _registered(graph, f"few.{len(graph.initializers)}", tensor)], axis=0)


def _expert(graph: ir.Graph, product: ir.Node, number: int) -> ir.Value:
    """One expert's weights, [1, inputs, outputs], out of the stack's bytes."""
    stack = product.inputs[1]
    tensor = None if stack is None else stack.const_value
    assert isinstance(tensor, ir.ExternalTensor)  # `multiplied` has seen to it
    experts, *shape = _sizes(stack)
    length = tensor.nbytes // experts
    offset, name = (tensor.offset or 0) + number * length, f"{tensor.name}.{number}"
    part = ir.ExternalTensor(
        tensor.location, offset, length, tensor.dtype, shape=ir.Shape((1, *shape)), name=name, base_dir=tensor.base_dir
    )
    return _registered(graph, name, part)


def _sizes(stack: ir.Value | None) -> tuple[int, ...]:
    """Experts, inputs and outputs."""
    assert stack is not None
    assert stack.const_value is not None
    return tuple(stack.const_value.shape.numpy())


def _added(
    graph: ir.Graph, before: ir.Node, operator: str, inputs: Sequence[ir.Value | None], **attributes: int
) -> ir.Value:
    """The output of a new node."""
    node = ir.node(operator, inputs, attributes)
    node.outputs[0].name = f"{before.name}:few.{graph.num_nodes()}"
    graph.insert_before(before, node)
    return node.outputs[0]


def _registered(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    shape = ir.Shape(tensor.shape.numpy())
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
    graph.register_initializer(value)
    return value

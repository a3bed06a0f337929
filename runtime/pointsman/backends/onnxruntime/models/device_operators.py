"""Graphs in fewer kernels: operators of ONNX Runtime's own in the place of standard ones.

A bundle's graphs are standard ONNX, so that plans can be built from them. Where ONNX Runtime runs them on a GPU, the
time of a step is that of hundreds of kernels, one behind the other, and of fetching experts, which copies each row's
own:

    x w_1, x w_2, ... of weights of equal size       one product, and `Split`
    y = x + residual, RMSNormalization(y)            `SkipSimplifiedLayerNormalization`
    relu(x w_in[expert]) w_out[expert], fetched      `MoE`: rows by their expert, each expert read once

`MoE` would choose experts itself, by logits in the precision of the weights. It is given a row of a table that leaves
it no choice: a hundred for the expert that the router chose in float32, zero for the others.
Not in float32, whose results are to be those of the graphs as they are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pointsman.backends.onnxruntime.models.graphs import (
    BFLOAT16,
    FLOAT,
    OF_ONNX_RUNTIME,
    attributes_of,
    initializers_of,
    inputs_of,
    integer,
    new_external_initializer,
    new_initializer,
    new_node,
    new_node_of,
    nodes_of,
    operator,
    outputs_of,
    rewritten,
    text,
    with_operators,
)
from pointsman.backends.onnxruntime.models.tensors import Initializer, read_initializers

_HUNDRED: Final = {FLOAT: b"\0\0\xc8\x42", BFLOAT16: b"\xc8\x42"}  # little-endian
_COLUMNS: Final = 2  # the axis of d_model in [rows, tokens, d_model]
_ALIGNED: Final = 64  # what the kernels of `MoE` want d_model and d_ff to be multiples of
_MOST_JOINED: Final = 32  # `Split` of more outputs reads their addresses from memory that a recording does not keep


@dataclass(frozen=True, slots=True)
class Derived:
    """A weight that the changed graph has, and the bundle has not.

    Attributes:
        name: of the initializer.
        sources: the bundle's.
        shape: its axes.
        how: the last two axes of one source exchanged, or several joined along the last axis.
    """

    name: bytes
    sources: tuple[Initializer, ...]
    shape: tuple[int, ...]
    how: Literal["transposed", "joined"]


def with_device_operators(model: bytes, elements: int = BFLOAT16) -> tuple[bytes, list[Derived]]:
    """A serialized graph with operators of ONNX Runtime's own.

    Args:
        model: the encoder, or the step for one position, in the portable form.
        elements: onnx.TensorProto.DataType of the weights; of others nothing is changed.

    Returns:
        The model, and the weights that are to be given with it.
    """
    changes = _Changes(model, elements)
    for change in (changes.norm, changes.projections, changes.experts):
        for node in changes.nodes:
            change(node)
    if not changes.replaced:
        return model, []

    def replaced(node: bytes, branch: bool) -> bytes | None:  # noqa: ARG001, FBT001 - the shape of a `NodeChange`
        return changes.replaced.get(outputs_of(node)[0])

    return with_operators(rewritten(model, replaced, shared=changes.shared), OF_ONNX_RUNTIME), changes.derived


class _Changes:
    """What is known of a graph, and what takes the place of its nodes.

    Attributes:
        nodes: of the graph.
        replaced: by a node's first output, the fields of the graph that take its place.
        derived: weights that these read.
    """

    def __init__(self, model: bytes, elements: int) -> None:
        self.nodes = nodes_of(model)
        self.replaced: dict[bytes, bytes] = {}
        self.derived: list[Derived] = []
        self._elements = elements
        self._made_by = {output: node for node in self.nodes for output in outputs_of(node)}
        self._readers: dict[bytes, list[bytes]] = {}
        for node in self.nodes:
            for value in inputs_of(node):
                self._readers.setdefault(value, []).append(node)
        self._initializers = read_initializers(initializers_of(model))
        self._tables: dict[int, bytes] = {}

    def shared(self) -> bytes:
        """New initializers."""
        size = len(_HUNDRED[self._elements])
        tables = (
            new_initializer(name, self._elements, (experts, experts), _table(experts, _HUNDRED[self._elements]))
            for experts, name in self._tables.items()
        )
        weights = (
            new_external_initializer(each.name, self._elements, each.shape, size * each.shape[-1] * _rows(each.shape))
            for each in self.derived
        )
        return b"".join((*tables, *weights))

    def norm(self, node: bytes) -> None:
        """A norm whose input is a sum of two values."""
        if operator(node) != b"RMSNormalization":
            return
        summed, weight = inputs_of(node)
        added = self._made_by.get(summed)
        if added is None or operator(added) != b"Add" or self._weight(weight) is None:
            return
        outputs = (*outputs_of(node), b"", b"", summed)
        epsilon = attributes_of(node)[b"epsilon"]
        inputs = (*inputs_of(added), weight)
        both = new_node_of(OF_ONNX_RUNTIME, b"SkipSimplifiedLayerNormalization", inputs, outputs, epsilon)
        self.replaced |= {summed: both, outputs[0]: b""}

    def projections(self, node: bytes) -> None:
        """The first of several products of one value with weights of equal size."""
        products = [] if operator(node) != b"MatMul" else [*self._products_of(inputs_of(node)[0])]
        if len(products) < 2 or products[0][0] != node:
            return
        shapes = {weight.shape for _, weight in products}
        if len(shapes) != 1 or len(products[0][1].shape) != 2:
            return
        size = -(-len(products) // -(-len(products) // _MOST_JOINED))
        for start in range(0, len(products), size):
            self._join(products[start : start + size])

    def _join(self, products: Sequence[tuple[bytes, Initializer]]) -> None:
        weights = tuple(weight for _, weight in products)
        rows, columns = weights[0].shape
        name = weights[0].name + b"/joined"
        self.derived.append(Derived(name, weights, (rows, columns * len(weights)), "joined"))
        outputs = [outputs_of(product)[0] for product, _ in products]
        joined = outputs[0] + b"/joined"
        product = new_node(b"MatMul", (inputs_of(products[0][0])[0], name), joined)
        split = integer(b"axis", _COLUMNS), integer(b"num_outputs", len(outputs))
        self.replaced |= dict.fromkeys(outputs, b"")
        self.replaced[outputs[0]] = product + new_node_of(b"", b"Split", (joined,), outputs, *split)

    def _products_of(self, value: bytes) -> Iterator[tuple[bytes, Initializer]]:
        for reader in self._readers.get(value, ()):
            if operator(reader) == b"MatMul" and inputs_of(reader)[0] == value:
                weight = self._weight(inputs_of(reader)[1])
                if weight is not None:
                    yield reader, weight

    def experts(self, node: bytes) -> None:
        """The last product of a layer's fetched experts."""
        chain = self._fetched(node)
        if chain is None:
            return
        rows, chosen, (w_in, w_out), gone = chain
        names = [self._transposed(weight) for weight in (w_in, w_out)]
        table = self._tables.setdefault(w_in.shape[0], b"experts/%d" % w_in.shape[0])
        (output,) = outputs_of(node)
        scores = output + b"/scores"
        attributes = text(b"activation_type", b"relu"), integer(b"k", 1), integer(b"normalize_routing_weights", 1)
        inputs = rows, scores, names[0], b"", names[1]
        self.replaced |= {outputs_of(each)[0]: b"" for each in gone}
        self.replaced[output] = new_node(b"Gather", (table, chosen), scores, integer(b"axis", 0)) + new_node_of(
            OF_ONNX_RUNTIME, b"MoE", inputs, (output,), *attributes
        )

    def _fetched(self, node: bytes) -> tuple[bytes, bytes, tuple[Initializer, Initializer], Sequence[bytes]] | None:
        """Rows, their experts, the weights, and all other nodes, where a product ends a network without a gate."""
        last = self._product_with_fetched(node)
        relu = None if last is None else self._made_by.get(last[0])
        if last is None or relu is None or operator(relu) != b"Relu":
            return None
        product = self._made_by.get(inputs_of(relu)[0])
        first = None if product is None else self._product_with_fetched(product)
        if product is None or first is None:
            return None
        (rows, fetched_in, w_in), (_, fetched_out, w_out) = first, last
        chosen = {inputs_of(fetched)[1] for fetched in (fetched_in, fetched_out)}
        if len(chosen) != 1 or any(size % _ALIGNED for size in w_in.shape[1:]):
            return None
        return rows, chosen.pop(), (w_in, w_out), (fetched_in, fetched_out, product, relu)

    def _product_with_fetched(self, node: bytes) -> tuple[bytes, bytes, Initializer] | None:
        """What is multiplied, the node that fetches each row's weight, and the weights of all experts."""
        fetched = self._made_by.get(inputs_of(node)[1]) if operator(node) == b"MatMul" else None
        if fetched is None or operator(fetched) != b"Gather":
            return None
        weight = self._weight(inputs_of(fetched)[0])
        return None if weight is None or len(weight.shape) != 3 else (inputs_of(node)[0], fetched, weight)

    def _weight(self, name: bytes) -> Initializer | None:
        """An initializer of the graph's precision that lies in the bundle's file of weights."""
        found = self._initializers.get(name)
        return found if found is not None and found.elements == self._elements and found.place is not None else None

    def _transposed(self, weight: Initializer) -> bytes:
        experts, rows, columns = weight.shape
        name = weight.name + b"/transposed"
        self.derived.append(Derived(name, (weight,), (experts, columns, rows), "transposed"))
        return name


def _table(experts: int, hundred: bytes) -> bytes:
    """[experts, experts]: a row for each choice."""
    zero = bytes(len(hundred))
    return b"".join(hundred if row == column else zero for row in range(experts) for column in range(experts))


def _rows(shape: tuple[int, ...]) -> int:
    """All axes but the last as one."""
    rows = 1
    for size in shape[:-1]:
        rows *= size
    return rows

"""Graphs in fewer kernels: operators of ONNX Runtime's own in the place of standard ones.

A bundle's graphs are standard ONNX, so that plans can be built from them. Where ONNX Runtime runs them on a GPU, the
time of a step is that of hundreds of kernels, one behind the other, and of fetching experts, which copies each row's
own:

    x w_1, x w_2, ... of weights of equal size       one product, and `Split`
    y = x + residual, RMSNormalization(y)            `SkipSimplifiedLayerNormalization`
    relu(x w_in[expert]) w_out[expert]               `MoE`: rows by their expert, each expert read once

In a step an expert is fetched for each row; in the encoder tokens are scattered into buckets, and all experts multiply
theirs. Both become the same. What no expert accepts is multiplied by zero behind either.
`MoE` would choose experts itself, by logits in the precision of the weights. It is given a row of a table that leaves
it no choice: a hundred for the expert that the router chose in float32, zero for the others.
Not in float32, whose results are to be those of the graphs as they are.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
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
    new_integers,
    new_node,
    new_node_of,
    nodes_in,
    nodes_of,
    operator,
    outputs_of,
    results_of,
    rewritten,
    text,
    with_operators,
)
from pointsman.backends.onnxruntime.models.tensors import Initializer, read_initializers
from pointsman.bundle import names

_HUNDRED: Final = {FLOAT: b"\0\0\xc8\x42", BFLOAT16: b"\xc8\x42"}  # little-endian
_COLUMNS: Final = 2  # the axis of d_model in [rows, tokens, d_model]
_ALIGNED: Final = 64  # what the kernels of `MoE` want d_model and d_ff to be multiples of
_MOST_JOINED: Final = 32  # `Split` of more outputs reads their addresses from memory that a recording does not keep


_LAYING_OUT: Final = {b"Reshape", b"Transpose", b"Slice"}
_FLAT: Final = b"experts/flat"  # a shape: all in one axis

_Factors = tuple[bytes, bytes, Initializer]
_Read = Callable[[bytes], _Factors | None]


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
        model: the encoder, or the step for one position, in the portable form, which has no branches.
        elements: onnx.TensorProto.DataType of the weights; of others nothing is changed.

    Returns:
        The model, and the weights that are to be given with it.
    """
    changes = _Changes(model, elements)
    for change in (changes.norm, changes.projections, changes.fetched_experts, changes.experts_of_buckets):
        for node in changes.nodes:
            change(node)
    if not changes.replaced:
        return model, []
    changes.drop_unread(results_of(model))

    def replaced(node: bytes, branch: bool) -> bytes | None:  # noqa: ARG001, FBT001 - a `Change`
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
        flat = new_integers(_FLAT, (-1,))
        return b"".join((flat, *tables, *weights))

    def norm(self, node: bytes) -> None:
        """A norm whose input is a sum of two values."""
        if operator(node) != b"RMSNormalization":
            return
        summed, weight = inputs_of(node)
        added = self._made_by.get(summed)
        if added is None or operator(added) != b"Add" or self._weight(weight) is None or summed in self.replaced:
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
        name = outputs_of(products[0][0])[0] + b"/weights"  # a weight may begin another group too
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

    def fetched_experts(self, node: bytes) -> None:
        """The last product of a layer that fetches each row's expert."""
        network = self._network(node, self._fetched)
        if network is None:
            return
        (rows, chosen, w_in), (_, again, w_out) = network
        if chosen == again:
            self._moe(outputs_of(node)[0], rows, chosen, (w_in, w_out), b"")

    def experts_of_buckets(self, node: bytes) -> None:
        """Where tokens are taken from the buckets of all experts, `GatherElements`."""
        if operator(node) != b"GatherElements":
            return
        joined, slots = inputs_of(node)
        concat = self._made_by.get(joined)
        if concat is None or operator(concat) != b"Concat":
            return
        last = self._behind(inputs_of(concat)[-1])
        network = None if last is None else self._network(last, self._stacked)
        scattered = None if network is None else self._behind(network[0][0])
        if network is None or scattered is None or operator(scattered) != b"ScatterElements":
            return
        (_, _, w_in), (_, _, w_out) = network
        _, its_slots, rows = inputs_of(scattered)
        expert = names.expert_choice(names.layer_of_stacked(w_in.name.decode())).encode()
        if its_slots == slots and expert in self._made_by:
            chosen = expert + b"/flat"
            flat = new_node(b"Reshape", (expert, _FLAT), chosen)
            self._moe(outputs_of(node)[0], rows, chosen, (w_in, w_out), flat)

    def _moe(
        self, output: bytes, rows: bytes, chosen: bytes, weights: tuple[Initializer, Initializer], before: bytes
    ) -> None:
        """Have `MoE` give an output."""
        if any(size % _ALIGNED for size in weights[0].shape[1:]):
            return
        w_in, w_out = (self._transposed(weight) for weight in weights)
        table = self._tables.setdefault(weights[0].shape[0], b"experts/%d" % weights[0].shape[0])
        scores = output + b"/scores"
        attributes = text(b"activation_type", b"relu"), integer(b"k", 1), integer(b"normalize_routing_weights", 1)
        nodes = (
            new_node(b"Gather", (table, chosen), scores, integer(b"axis", 0)),
            new_node_of(OF_ONNX_RUNTIME, b"MoE", (rows, scores, w_in, b"", w_out), (output,), *attributes),
        )
        self.replaced[output] = before + b"".join(nodes)

    def _network(self, last: bytes, read: _Read) -> tuple[_Factors, _Factors] | None:
        """Of `relu(x w_in) w_out`, which ends with a product, what `read` says of both; None where it is another."""
        second = read(last)
        relu = None if second is None else self._made_by.get(second[0])
        if second is None or relu is None or operator(relu) != b"Relu":
            return None
        product = self._made_by.get(inputs_of(relu)[0])
        first = None if product is None else read(product)
        return None if first is None else (first, second)

    def _fetched(self, node: bytes) -> _Factors | None:
        """Of a product with each row's own weight: what is multiplied, the rows' experts, and the weights of all."""
        fetched = self._made_by.get(inputs_of(node)[1]) if operator(node) == b"MatMul" else None
        if fetched is None or operator(fetched) != b"Gather":
            return None
        weight = self._weight(inputs_of(fetched)[0])
        return None if weight is None or len(weight.shape) != 3 else (inputs_of(node)[0], inputs_of(fetched)[1], weight)

    def _stacked(self, node: bytes) -> _Factors | None:
        """The same of a product with the weights of all experts, whose rows are of known experts."""
        weight = self._weight(inputs_of(node)[1]) if operator(node) == b"MatMul" else None
        return None if weight is None or len(weight.shape) != 3 else (inputs_of(node)[0], b"", weight)

    def _behind(self, value: bytes) -> bytes | None:
        """The node that made a value, where others only laid it out anew."""
        node = self._made_by.get(value)
        while node is not None and operator(node) in _LAYING_OUT:
            node = self._made_by.get(inputs_of(node)[0])
        return node

    def drop_unread(self, results: Iterable[bytes]) -> None:
        """Leave out what nobody reads any more: the engine would run it."""
        live = set(results)
        for node in reversed(self.nodes):
            first = outputs_of(node)[0]
            if first not in self.replaced and not live.intersection(outputs_of(node)):
                self.replaced[first] = b""
            for each in nodes_in(self.replaced[first]) if first in self.replaced else (node,):
                live.update(inputs_of(each))

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

"""Cross-attention over a source in blocks: a step reads no padding, and each query is a product of its own.

A bundle's step takes inputs padded to the longest, and the queries of an input as one product. A CPU reads all of that
padding, and multiplies a few queries more slowly than each alone. So keys and values come in blocks of equal length:

    keys       [blocks, heads, 1, d_kv, block]
    values     [blocks, heads, 1, block, d_kv]
    mask       [blocks, block]
    queries    [blocks, heads, alone, together], numbers of queries: `together` of them are rows of one product
    places     [rows, positions, heads, 1, parts], where each query is among these, once for each block of its source

The softmax over a source is the softmax over each block, weighted by a softmax over the logarithms of the blocks' sums
(https://arxiv.org/abs/1805.02867; Flash-Decoding splits keys likewise):

    of each block     weights = softmax(scores), log_sum = max(scores) - log(max(weights)), attended = weights x values
    of each query     softmax(log_sum of its parts) x (attended of its parts)

A block that is masked whole weighs nothing beside others. A source with fewer parts than others is given one of its own
again, by a place counted from the end (a negative one), which weighs nothing either: so nothing of one request, not
even what is no number, reaches another.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pointsman.backends.onnxruntime.models.graphs import (
    FLOAT,
    attributes_of,
    inputs_of,
    integer,
    new_initializer,
    new_integers,
    new_node,
    nodes_of,
    operator,
    output_of,
    outputs_of,
    renamed,
    rewritten,
    without_shapes,
)
from pointsman.bundle import names
from pointsman.errors import BundleError

_QUERIES, _PLACES = names.ATTENDING_QUERIES.encode(), names.ATTENDED_PLACES.encode()
_PARTS: Final = b"blocks/parts"  # [rows, positions, heads, parts]
_AGAIN, _BIAS = b"blocks/again", b"blocks/bias"  # [rows, positions, heads, 1, parts]
_LAST, _LAST_BUT_ONE, _FLAT, _MASK_AXES = b"blocks/last", b"blocks/last_but_one", b"blocks/flat", b"blocks/mask_axes"
_NONE, _ZERO, _LOWEST = b"blocks/none", b"blocks/zero", b"blocks/lowest"
_INTEGERS: Final = {_LAST: (-1,), _LAST_BUT_ONE: (-2,), _FLAT: (-1,), _MASK_AXES: (1, 2, 3), _NONE: (0,)}
_FLOATS: Final = {_ZERO: 0.0, _LOWEST: -3.4028234663852886e38}


@dataclass(frozen=True, slots=True)
class _Attention:
    """The values of a layer's cross-attention.

    Attributes:
        scores: masked.
        weights: the scores' softmax.
        cast: the attribute that says to which dtype they are cast for the values; None where they have it.
        vectors: what was attended to, [queries, d_kv].
        merged: what each query finds among these.
        mask: what is added to scores.
        given: the graph's inputs: keys and values.
    """

    scores: bytes
    weights: bytes
    cast: bytes | None
    vectors: bytes
    merged: bytes
    mask: bytes
    given: tuple[bytes, bytes]

    def in_parts(self) -> bytes:
        """The nodes that give `merged`, as fields of the graph."""
        steps = b"highest most logs log_sums flat of_parts biased shares found".split()
        highest, most, logs, log_sums, flat, of_parts, biased, shares, found = (
            self.merged + b"/" + step for step in steps
        )
        cast = shares + b"/cast" if self.cast is not None else shares
        nodes = (
            new_node(b"ReduceMax", (self.scores, _LAST), highest, integer(b"keepdims", 0)),
            new_node(b"ReduceMax", (self.weights, _LAST), most, integer(b"keepdims", 0)),
            new_node(b"Log", (most,), logs),
            new_node(b"Sub", (highest, logs), log_sums),
            new_node(b"Reshape", (log_sums, _FLAT), flat),
            new_node(b"Gather", (flat, _PLACES), of_parts, integer(b"axis", 0)),
            new_node(b"Add", (of_parts, _BIAS), biased),
            new_node(b"Softmax", (biased,), shares),
            b"" if self.cast is None else new_node(b"Cast", (shares,), cast, self.cast),
            new_node(b"Gather", (self.vectors, _PARTS), found, integer(b"axis", 0)),
            new_node(b"MatMul", (cast, found), self.merged),
        )
        return b"".join(nodes)


def with_source_in_blocks(model: bytes) -> bytes:
    """A serialized step for any number of positions whose source comes in blocks.

    Raises:
        BundleError: it is no model, or its cross-attention is not that of our exporter.
    """
    try:
        return _in_blocks(model)
    except (LookupError, ValueError) as error:
        raise _other_graph() from error


def _in_blocks(model: bytes) -> bytes:
    layers = [*_layers(nodes_of(model))]
    if not layers:
        raise _other_graph()
    merged = {layer.merged: layer.in_parts() for layer in layers}
    masks, given = {layer.mask for layer in layers}, {each for layer in layers for each in layer.given}

    def replaced(node: bytes, branch: bool) -> bytes | None:  # noqa: FBT001 - a `Change`
        if branch:
            return None
        first = outputs_of(node)[0]
        if first in masks:
            return renamed(node, (inputs_of(node)[0], _MASK_AXES), first)
        return merged.get(first)

    changed = rewritten(model, replaced, shared=_shared)
    return without_shapes(changed, {_QUERIES, _PLACES, *given})


def _layers(nodes: list[bytes]) -> Iterator[_Attention]:
    made_by = {output: node for node in nodes for output in outputs_of(node)}

    def maker(value: bytes, *operators: bytes) -> bytes:
        node = made_by.get(value)
        if node is None or operator(node) not in operators:
            raise _other_graph()
        return node

    for node in nodes:
        if operator(node) != b"Gather" or inputs_of(node)[1] != _PLACES:
            continue
        vectors = inputs_of(node)[0]
        weights, values = inputs_of(maker(inputs_of(maker(vectors, b"Reshape"))[0], b"MatMul"))
        softmax, cast = maker(weights, b"Softmax", b"Cast"), None
        if operator(softmax) == b"Cast":
            softmax, cast = maker(inputs_of(softmax)[0], b"Softmax"), attributes_of(softmax)[b"to"]
        (scores,) = inputs_of(softmax)
        products, mask = inputs_of(maker(scores, b"Add"))
        maker(mask, b"Unsqueeze")
        product = maker(products, b"MatMul", b"Cast")
        if operator(product) == b"Cast":
            product = maker(inputs_of(product)[0], b"MatMul")
        keys = inputs_of(product)[1]
        yield _Attention(scores, output_of(softmax), cast, vectors, output_of(node), mask, (keys, values))


def _shared() -> bytes:
    """What all layers refer to."""
    integers = (new_integers(name, values) for name, values in _INTEGERS.items())
    floats = (new_initializer(name, FLOAT, (), struct.pack("<f", value)) for name, value in _FLOATS.items())
    nodes = (
        new_node(b"Squeeze", (_PLACES, _LAST_BUT_ONE), _PARTS),
        new_node(b"Less", (_PLACES, _NONE), _AGAIN),
        new_node(b"Where", (_AGAIN, _LOWEST, _ZERO), _BIAS),
    )
    return b"".join((*integers, *floats, *nodes))


def _other_graph() -> BundleError:
    return BundleError(
        "the decoder is damaged, or its cross-attention is not as this version exports it; export the checkpoint again"
    )

"""Nodes of a serialized ONNX model replaced, in its branches too, without a library for ONNX.

Numbers of fields are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from collections.abc import Callable, Container, Iterable, Sequence
from typing import Final

from pointsman.backends.onnxruntime.models.messages import field, fields, varint

FLOAT, UINT8, INT8, INT64, BFLOAT16 = 1, 2, 3, 7, 16  # onnx.TensorProto.DataType
OF_ONNX_RUNTIME: Final = b"com.microsoft"  # the domain of operators that are its own

_MODEL_GRAPH, _MODEL_OPERATORS = 7, 8
_OPERATORS_DOMAIN, _OPERATORS_VERSION = 1, 2
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_VALUE = 1, 5, 11, 12, 13
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR, _TENSOR_TYPE_SHAPE = 1, 2
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_INTEGER, _ATTRIBUTE_TEXT, _ATTRIBUTE_GRAPH, _ATTRIBUTE_KIND = 1, 3, 4, 6, 20
_KIND_INTEGER, _KIND_TEXT = 2, 3
_TENSOR_DIMENSION, _TENSOR_ELEMENTS, _TENSOR_NAME, _TENSOR_BYTES, _TENSOR_PLACE = 1, 2, 8, 9, 13
_TENSOR_LOCATION, _EXTERNAL = 14, 1
_ENTRY_KEY, _ENTRY_VALUE = 1, 2

Change = Callable[[bytes, bool], bytes | None]
"""Of a node or an initializer, and whether it is in a branch: fields of a graph that take its place; None where it
stays."""


def unchanged(content: bytes, branch: bool) -> bytes | None:  # noqa: ARG001, FBT001 - a `Change`
    """What leaves all as it is."""
    return None


def rewritten(
    model: bytes, node: Change = unchanged, initializer: Change = unchanged, shared: Callable[[], bytes] = bytes
) -> bytes:
    """A model with other nodes and initializers.

    Args:
        model: the model.
        node: what becomes of each node.
        initializer: what becomes of each initializer.
        shared: asked at the end: fields of the outermost graph, which precede its others.
    """

    def changed_graph(graph: bytes, *, branch: bool) -> bytes:
        parts = []
        for number, content, whole in fields(graph):
            if number == _GRAPH_NODE:
                replaced = node(content, branch)
                parts.append(field(number, changed_node(content)) if replaced is None else replaced)
            elif number == _GRAPH_INITIALIZER:
                replaced = initializer(content, branch)
                parts.append(whole if replaced is None else replaced)
            else:
                parts.append(whole)
        return b"".join(parts)

    def changed_node(content: bytes) -> bytes:
        return _changed(content, _NODE_ATTRIBUTE, changed_attribute)

    def changed_attribute(content: bytes) -> bytes:
        return _changed(content, _ATTRIBUTE_GRAPH, lambda graph: changed_graph(graph, branch=True))

    def changed_outermost(graph: bytes) -> bytes:
        rest = changed_graph(graph, branch=False)
        return shared() + rest

    return _changed(model, _MODEL_GRAPH, changed_outermost)


def nodes_of(model: bytes) -> list[bytes]:
    """The nodes of a model's outermost graph."""
    return _in_graph(model, _GRAPH_NODE)


def initializers_of(model: bytes) -> list[bytes]:
    """The initializers of a model's outermost graph."""
    return _in_graph(model, _GRAPH_INITIALIZER)


def results_of(model: bytes) -> list[bytes]:
    """The names of a model's outputs."""
    return [texts(value, _VALUE_NAME)[0] for value in _in_graph(model, _GRAPH_OUTPUT)]


def nodes_in(graph_fields: bytes) -> list[bytes]:
    """The nodes among fields of a graph."""
    return texts(graph_fields, _GRAPH_NODE)


def _in_graph(model: bytes, wanted: int) -> list[bytes]:
    return [each for graph in texts(model, _MODEL_GRAPH) for each in texts(graph, wanted)]


def without_shapes(model: bytes, inputs: Container[bytes]) -> bytes:
    """A model that does not say what shapes these inputs have, nor any value inside it."""

    def changed_graph(graph: bytes) -> bytes:
        kept = (each for each in fields(graph) if each[0] != _GRAPH_VALUE)
        return b"".join(
            field(number, changed_value(content)) if number == _GRAPH_INPUT else whole
            for number, content, whole in kept
        )

    def changed_value(value: bytes) -> bytes:
        if texts(value, _VALUE_NAME)[0] not in inputs:
            return value
        return _changed(value, _VALUE_TYPE, lambda kind: _changed(kind, _TYPE_TENSOR, changed_tensor))

    def changed_tensor(tensor: bytes) -> bytes:
        return b"".join(whole for number, _, whole in fields(tensor) if number != _TENSOR_TYPE_SHAPE)

    return _changed(model, _MODEL_GRAPH, changed_graph)


def with_operators(model: bytes, domain: bytes) -> bytes:
    """A model that may have operators of a domain, in their first version."""
    return model + field(_MODEL_OPERATORS, field(_OPERATORS_DOMAIN, domain) + _number(_OPERATORS_VERSION, 1))


def operator(node: bytes) -> bytes:
    """The name of a node's operator."""
    return texts(node, _NODE_OPERATOR)[0]


def inputs_of(node: bytes) -> list[bytes]:
    """The names of a node's inputs."""
    return texts(node, _NODE_INPUT)


def outputs_of(node: bytes) -> list[bytes]:
    """The names of a node's outputs."""
    return texts(node, _NODE_OUTPUT)


def output_of(node: bytes) -> bytes:
    """The name of the only output of a node."""
    (output,) = outputs_of(node)
    return output


def attributes_of(node: bytes) -> dict[bytes, bytes]:
    """A node's attributes as `integer` and `text` give them, by name."""
    return {texts(attribute, _ATTRIBUTE_NAME)[0]: attribute for attribute in texts(node, _NODE_ATTRIBUTE)}


def texts(message: bytes, wanted: int) -> list[bytes]:
    """All fields of one number, which are texts or messages."""
    return [content for number, content, _ in fields(message) if number == wanted]


def renamed(node: bytes, inputs: Iterable[bytes], output: bytes) -> bytes:
    """A field of a graph: a node with other inputs and another output."""
    rest = [whole for number, _, whole in fields(node) if number not in {_NODE_INPUT, _NODE_OUTPUT}]
    return field(_GRAPH_NODE, _values(inputs, (output,)) + b"".join(rest))


def retyped(tensor: bytes, elements: int) -> bytes:
    """A field of a graph: an initializer whose elements are said to be of another DataType."""
    rest = [whole for number, _, whole in fields(tensor) if number != _TENSOR_ELEMENTS]
    return field(_GRAPH_INITIALIZER, b"".join([*rest, _number(_TENSOR_ELEMENTS, elements)]))


def kept(tensor: bytes) -> bytes:
    """A field of a graph: an initializer as it is."""
    return field(_GRAPH_INITIALIZER, tensor)


def new_node(name: bytes, inputs: Iterable[bytes], output: bytes, *attributes: bytes) -> bytes:
    """A field of a graph: a node of an operator of standard ONNX; attributes as `integer` and `text` give them."""
    return new_node_of(b"", name, inputs, (output,), *attributes)


def new_node_of(
    domain: bytes, name: bytes, inputs: Iterable[bytes], outputs: Iterable[bytes], *attributes: bytes
) -> bytes:
    """The same of an operator of any domain, with any number of outputs; those with an empty name are left out."""
    parts = [_values(inputs, outputs), field(_NODE_OPERATOR, name)]
    parts += [field(_NODE_ATTRIBUTE, attribute) for attribute in attributes]
    parts += [field(_NODE_DOMAIN, domain)] if domain else []
    return field(_GRAPH_NODE, b"".join(parts))


def integer(name: bytes, value: int) -> bytes:
    """An attribute that is an integer."""
    return field(_ATTRIBUTE_NAME, name) + _number(_ATTRIBUTE_INTEGER, value) + _number(_ATTRIBUTE_KIND, _KIND_INTEGER)


def text(name: bytes, value: bytes) -> bytes:
    """An attribute that is a text."""
    return field(_ATTRIBUTE_NAME, name) + field(_ATTRIBUTE_TEXT, value) + _number(_ATTRIBUTE_KIND, _KIND_TEXT)


def new_initializer(name: bytes, elements: int, shape: Iterable[int], content: bytes) -> bytes:
    """A field of a graph: an initializer; `elements` is a DataType, `content` little-endian."""
    parts = [_number(_TENSOR_DIMENSION, size) for size in shape]
    parts += [_number(_TENSOR_ELEMENTS, elements), field(_TENSOR_NAME, name), field(_TENSOR_BYTES, content)]
    return field(_GRAPH_INITIALIZER, b"".join(parts))


def new_integers(name: bytes, values: Sequence[int]) -> bytes:
    """The same of int64 numbers, in one axis."""
    content = b"".join(value.to_bytes(8, "little", signed=True) for value in values)
    return new_initializer(name, INT64, (len(values),), content)


def new_external_initializer(name: bytes, elements: int, shape: Iterable[int], length: int) -> bytes:
    """An initializer whose content, of so many bytes, is given to the engine beside the model."""
    parts = [_number(_TENSOR_DIMENSION, size) for size in shape]
    parts += [_number(_TENSOR_ELEMENTS, elements), field(_TENSOR_NAME, name)]
    entries = {b"location": b"given", b"offset": b"0", b"length": str(length).encode()}
    parts += [
        field(_TENSOR_PLACE, field(_ENTRY_KEY, key) + field(_ENTRY_VALUE, value)) for key, value in entries.items()
    ]
    return field(_GRAPH_INITIALIZER, b"".join([*parts, _number(_TENSOR_LOCATION, _EXTERNAL)]))


def _changed(message: bytes, wanted: int, change: Callable[[bytes], bytes]) -> bytes:
    parts = (
        field(number, change(content)) if number == wanted else whole for number, content, whole in fields(message)
    )
    return b"".join(parts)


def _values(inputs: Iterable[bytes], outputs: Iterable[bytes]) -> bytes:
    both = (_NODE_INPUT, inputs), (_NODE_OUTPUT, outputs)
    return b"".join(field(number, each) for number, values in both for each in values)


def _number(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)

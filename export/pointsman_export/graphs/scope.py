"""A graph under construction, and a module's place in it: nodes bear the module's path, weights its name.

Nodes are named `/decoder/block.0/layer.0/SelfAttention/q/MatMul`, values after the nodes that compute them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from pointsman.bundle import Role, TensorSpec, names

OPSET = 24
IR_VERSION = 10
ELEMENT_TYPES = {
    "float32": ir.DataType.FLOAT,
    "bfloat16": ir.DataType.BFLOAT16,
    "float16": ir.DataType.FLOAT16,
    "int64": ir.DataType.INT64,
}

_OF_WHOLE_NUMBERS = {"ArgMax", "Shape"}
_OF_TRUTHS = {"Equal", "Greater", "Less", "LessOrEqual"}

Tensors = Mapping[str, ir.TensorProtocol]
Attribute = int | float | str | Sequence[int] | ir.TensorProtocol | ir.Attr


@dataclass(frozen=True, slots=True)
class Construction:
    """What all modules of one graph share.

    Attributes:
        tensors: the bytes of each weight.
        initializers: weights and constants that the graph has so far.
        used: how many nodes have a name, but for their numbers.
        constants: those of the initializers that are no weights, by what is in them.
    """

    tensors: Tensors
    initializers: dict[str, ir.Value] = field(default_factory=dict)
    used: Counter[str] = field(default_factory=Counter)
    constants: dict[tuple[object, ...], ir.Value] = field(default_factory=dict)

    def weight(self, name: str) -> ir.Value:
        """The initializer of a weight."""
        if name not in self.initializers:
            self.initializers[name] = _initializer(name, self.tensors[name])
        return self.initializers[name]

    def constant(self, array: NDArray[np.generic]) -> ir.Value:
        """An initializer of these values: one, however often it is asked for."""
        key = array.dtype, array.shape, array.tobytes()
        if key not in self.constants:
            name = f"constant.{len(self.constants)}"
            self.constants[key] = self.initializers[name] = _initializer(name, ir.tensor(array, name=name))
        return self.constants[key]


@dataclass(frozen=True, slots=True)
class Scope:
    """A module's place in a graph.

    Attributes:
        construction: of the whole graph.
        path: the module's.
        nodes: what the module's nodes are appended to: the graph's nodes, or a branch's.
        branch: whether that is a branch of an `If`.
    """

    construction: Construction
    path: str
    nodes: list[ir.Node]
    branch: bool = False

    def at(self, module: str) -> "Scope":
        """The place of a module within this one."""
        return replace(self, path=f"{self.path}.{module}" if self.path else module)

    def module(self, path: str) -> "Scope":
        """The place of a module by its whole path."""
        return replace(self, path=path)

    def branched(self, path: str) -> "Scope":
        """A branch's place; its nodes go into a list of their own."""
        return replace(self, path=path, nodes=[], branch=True)

    def op(self, operator: str, *inputs: ir.Value | None, **attributes: Attribute) -> ir.Value:
        """Add a node, and return its one output."""
        (output,) = self.outputs(1, operator, *inputs, **attributes)
        return output

    def outputs(
        self, count: int, operator: str, *inputs: ir.Value | None, **attributes: Attribute
    ) -> Sequence[ir.Value]:
        """Add a node, and return its outputs."""
        base = f"{names.node_path(self.path)}/{operator}"
        number = self.construction.used[base]
        self.construction.used[base] += 1
        node = ir.node(operator, inputs, attributes, num_outputs=count, name=f"{base}_{number}" if number else base)
        for index, output in enumerate(node.outputs):
            output.name = f"{node.name}:{index}"
            if not self.branch:  # there are too many of them, and nobody cuts a branch
                output.type = _type(node, index)
        self.nodes.append(node)
        return node.outputs

    def choice(self, condition: ir.Value, taken: "Branch", skipped: "Branch") -> ir.Value:
        """An `If`: the result of one branch or of the other, which are of one type."""
        branches = {"then_branch": taken.graph, "else_branch": skipped.graph}
        # As attributes of a known type: finding out what they are takes longer than all else where there are many.
        output = self.op("If", condition, **{name: ir.AttrGraph(name, graph) for name, graph in branches.items()})
        output.type = taken.type
        return output

    def weight(self, name: str = "weight") -> ir.Value:
        """The initializer of one of the module's weights."""
        return self.construction.weight(f"{self.path}.{name}")

    def constant(self, values: Sequence[int] | range | NDArray[np.generic]) -> ir.Value:
        """An int64 list, or an array as it is; the whole graph shares them, but branches have their own.

        A value from outside would be one more that an engine hands to the branch at every step.
        """
        array = values if isinstance(values, np.ndarray) else np.array(list(values), np.int64)
        if self.branch:
            return self.op("Constant", value=ir.AttrTensor("value", ir.Tensor(array)))
        return self.construction.constant(array)

    def scalar(self, number: int) -> ir.Value:
        """An int64 of no axes."""
        return self.constant(np.array(number, np.int64))

    def cast(self, value: ir.Value, dtype: str) -> ir.Value:
        """A value in another dtype, or itself where that is the same."""
        element = ELEMENT_TYPES[dtype]
        return value if value.dtype == element else self.op("Cast", value, to=element)

    def length(self, value: ir.Value, axis: int) -> ir.Value:
        """Size of an axis, int64 [1]."""
        return self.op("Shape", value, start=axis, end=axis + 1)


@dataclass(frozen=True, slots=True)
class Branch:
    """One branch of an `If`: no inputs, everything else from the enclosing graphs.

    Attributes:
        place: where its nodes are.
        result: its one output.
        type: of that, which is not known of values in branches.
    """

    place: Scope
    result: ir.Value
    type: ir.TypeProtocol | None

    @property
    def graph(self) -> ir.Graph:
        """As an attribute of the `If`."""
        return ir.Graph([], [self.result], nodes=self.place.nodes, name=self.place.path)


def new_graph(tensors: Tensors) -> Scope:
    """The place of the whole network in a new graph.

    Args:
        tensors: where each weight's bytes are.
    """
    return Scope(Construction(tensors), "", [])


def graph_inputs(specs: Iterable[TensorSpec]) -> dict[str, ir.Value]:
    """A graph's inputs by name."""
    return {spec.name: _specified(ir.Value(name=spec.name), spec) for spec in specs}


def finished(
    graph: Scope,
    name: Role,
    inputs: Mapping[str, ir.Value],
    outputs: Mapping[str, ir.Value],
    specs: Iterable[TensorSpec],
) -> ir.Model:
    """The model of a graph.

    Args:
        graph: the whole network's place.
        name: of the graph.
        inputs: by name, in order.
        outputs: by name.
        specs: of the outputs, in order.
    """
    onnx_graph = ir.Graph(
        list(inputs.values()),
        [_specified(outputs[spec.name], spec) for spec in specs],
        nodes=graph.nodes,
        initializers=list(graph.construction.initializers.values()),
        opset_imports={"": OPSET},
        name=name,
    )
    return ir.Model(onnx_graph, ir_version=IR_VERSION, producer_name="pointsman")


def _type(node: ir.Node, output: int) -> ir.TypeProtocol | None:
    """What a node's output is made of: what its first input is, but for some operators."""
    operator = node.op_type
    if operator in _OF_WHOLE_NUMBERS or (operator == "TopK" and output == 1):
        return ir.TensorType(ir.DataType.INT64)
    if operator in _OF_TRUTHS:
        return ir.TensorType(ir.DataType.BOOL)
    if operator == "Cast":
        return ir.TensorType(ir.DataType(node.attributes["to"].as_int()))
    if operator == "ConstantOfShape":
        return ir.TensorType(node.attributes["value"].as_tensor().dtype)
    source = node.inputs[1 if operator == "Where" else 0] if node.inputs else None
    return None if source is None else source.type


def _specified(value: ir.Value, spec: TensorSpec) -> ir.Value:
    value.name, value.shape = spec.name, ir.Shape(list(spec.axes))
    value.type = ir.TensorType(ELEMENT_TYPES[spec.dtype])
    return value


def _initializer(name: str, tensor: ir.TensorProtocol) -> ir.Value:
    return ir.Value(
        name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
    )

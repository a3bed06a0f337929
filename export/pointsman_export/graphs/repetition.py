"""Graphs of any depth from a trace of at most four blocks a stack: two of each kind, dense and sparse.

Blocks of one kind differ in nothing but the names of their weights, caches and values. The first of a kind also
computes what all of them share, such as shapes, so it is the second that is repeated for the others. What tracing
takes, in time and in memory that torch's tracer does not give back, then does not grow with the layers.
"""

from collections.abc import Sequence

import onnx_ir as ir

from pointsman.bundle import Architecture, Stack, TensorSpec
from pointsman_export.network.block import kinds, traced_blocks

SCOPES = "pkg.torch.onnx.name_scopes"  # the exporter's note of the modules that a node was traced in


def traced_specs(specs: Sequence[TensorSpec], architecture: Architecture) -> list[TensorSpec]:
    """Those of a graph's inputs or outputs that belong to no decoder block, or to one that is traced."""
    traced = {str(number) for number in traced_blocks(architecture.decoder)}
    return [spec for spec in specs if "." not in spec.name or spec.name.rpartition(".")[2] in traced]


def repeat_blocks(
    graph: ir.Graph, architecture: Architecture, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> None:
    """Put the blocks that were not traced into a graph of those that were.

    Args:
        graph: as it was traced, its inputs and outputs named after `traced_specs`. A block's nodes are those of its
            modules and, where the graph runs the whole block, the `Label` of its residual stream.
        architecture: of the whole network.
        inputs: of the whole graph.
        outputs: likewise.
    """
    interface = {str(value.name): value for value in (*graph.inputs, *graph.outputs)}
    for name, stack in (("encoder", architecture.encoder), ("decoder", architecture.decoder)):
        _Repetition(graph, name, stack, interface).run()
    graph.inputs[:] = [interface[spec.name] for spec in inputs]
    graph.outputs[:] = [interface[spec.name] for spec in outputs]


class _Repetition:
    """The repetition of one stack's blocks within one graph.

    Args:
        graph: with the blocks that were traced.
        name: `encoder` or `decoder`.
        stack: all of its blocks.
        interface: the graph's inputs and outputs by name; those of the copies are added.
    """

    def __init__(self, graph: ir.Graph, name: str, stack: Stack, interface: dict[str, ir.Value]) -> None:
        self.graph, self.name, self.kinds, self.interface = graph, name, kinds(stack), interface
        self.traced = {number: self._nodes_of(number) for number in traced_blocks(stack)}

    def run(self) -> None:
        """Go through all blocks in order; each takes the residual stream of the one before it."""
        nodes = self.traced[0]
        if not nodes:
            return  # the encoder's blocks, in the decoder's graph
        readers = {number: _readers(traced) for number, traced in self.traced.items()}
        entries: dict[int, ir.Value | None] = {}
        waiting = readers[0]
        for number, kind in enumerate(self.kinds[1:], start=1):
            last, stream = nodes[-1], _stream(nodes)
            if number in self.traced:
                _connect(waiting, stream)
                entries[number], nodes, waiting = stream, self.traced[number], readers[number]
            else:
                template = max(traced for traced in self.traced if self.kinds[traced] == kind)
                nodes = self._copy(template, number, {entries[template]: stream})
                self.graph.insert_after(last, nodes)
        _connect(waiting, _stream(nodes))

    def _nodes_of(self, number: int) -> list[ir.Node]:
        path = self._path(number)
        return [
            node for node in self.graph if _label(node) == path or f"'{path}." in node.metadata_props.get(SCOPES, "")
        ]

    def _copy(self, template: int, number: int, values: dict[ir.Value | None, ir.Value | None]) -> list[ir.Node]:
        """The nodes of a block that was traced, for another of its kind; `values` says what its stream stands for."""
        copies = []
        for node in self.traced[template]:
            for value in node.inputs:
                if value is not None and value not in values:
                    values[value] = self._counterpart(value, template, number)
            copies.append(self._copied(node, [values[value] for value in node.inputs], template, number))
            values.update(zip(node.outputs, copies[-1].outputs, strict=True))
        return copies

    def _copied(self, node: ir.Node, inputs: list[ir.Value | None], template: int, number: int) -> ir.Node:
        """One node with other inputs, whose attributes, notes and outputs name the other block."""
        paths = self._path(template), self._path(number)
        attributes = [
            ir.AttrString(name, attribute.as_string().replace(*paths))
            if attribute.type == ir.AttributeType.STRING
            else attribute
            for name, attribute in node.attributes.items()
        ]
        outputs = [
            self._counterpart(value, template, number) if value.is_graph_output() else _like(value, None)
            for value in node.outputs
        ]
        notes = {key: text.replace(*paths) for key, text in node.metadata_props.items()}
        return ir.Node(
            node.domain, node.op_type, inputs, attributes, version=node.version, outputs=outputs, metadata_props=notes
        )

    def _counterpart(self, value: ir.Value, template: int, number: int) -> ir.Value:
        """The other block's weight, input or output; what is no block's own stands for itself."""
        name = str(value.name)
        if value.is_initializer() and name.startswith(f"{self._path(template)}."):
            name = name.replace(self._path(template), self._path(number), 1)
            if name not in self.graph.initializers:
                self.graph.initializers[name] = _like(value, name)
            return self.graph.initializers[name]
        if name in self.interface and name.endswith(f".{template}"):
            name = f"{name.removesuffix(str(template))}{number}"
            return self.interface.setdefault(name, _like(value, name))
        return value

    def _path(self, number: int) -> str:
        return f"{self.name}.block.{number}"


def _label(node: ir.Node) -> str | None:
    """The name that a `Label` gives."""
    return node.attributes["name"].as_string() if node.op_type == "Label" else None


def _stream(nodes: Sequence[ir.Node]) -> ir.Value | None:
    """What a block hands on to the next; None where a graph runs but part of each block."""
    return next((node.outputs[0] for node in nodes if node.op_type == "Label"), None)


def _readers(nodes: Sequence[ir.Node]) -> list[tuple[ir.Node, int]]:
    """Who reads what a block hands on: nodes, and at which input."""
    stream = _stream(nodes)
    return [] if stream is None else [(use.node, use.idx) for use in stream.uses()]


def _connect(readers: Sequence[tuple[ir.Node, int]], stream: ir.Value | None) -> None:
    for node, index in readers:
        node.replace_input_with(index, stream)


def _like(value: ir.Value, name: str | None) -> ir.Value:
    """A value of the same shape and type."""
    return ir.Value(name=name, shape=value.shape, type=value.type)

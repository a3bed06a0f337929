"""torch modules to ONNX graphs: trace without weights, repeat blocks, put the expert dispatch in, name everything.

Names of inputs, outputs and axes come from the manifest's specs; names of nodes and initializers follow module paths
(`/decoder/block.0/layer.0/SelfAttention/q/MatMul`); the residual stream after a block is named after the block.
"""

import ast
import contextlib
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir
import onnxscript.optimizer
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from pointsman.bundle import Architecture, TensorSpec, decoder_specs, encoder_specs, names
from pointsman_export.graphs.branches import ExpertBranches, drop_overflow
from pointsman_export.graphs.repetition import SCOPES, repeat_blocks, traced_specs
from pointsman_export.network import Build, bucket_table
from pointsman_export.network.model import DecoderGraph, EncoderGraph

OPSET = 23
LABELLED = re.compile(r"(encoder|decoder)\.block\.\d+")
ONNX_NAMES = {"float32": "FLOAT", "bfloat16": "BFLOAT16", "float16": "FLOAT16", "int64": "INT64"}
# Distinct, so that the tracer takes no two axes for the same.
SAMPLE_SIZES = {"batch": 2, "source": 11, "rows": 6, "positions": 3, "past": 5}

Tensors = Mapping[str, ir.ExternalTensor]


def encoder_graph(build: Build, tensors: Tensors) -> ir.Model:
    """The encoder graph.

    Args:
        build: sizes, form, precision, capacity.
        tensors: where each initializer's bytes are.
    """
    inputs, outputs = encoder_specs(build.architecture, build.precision.name)
    with FakeTensorMode():
        samples, axes = _samples(inputs)
        program = _trace(EncoderGraph(build, whole=False), tuple(samples), tuple(axes))
    return _finish(program, build, tensors, inputs, outputs)


def decoder_graph(build: Build, tensors: Tensors) -> ir.Model:
    """The decoder-step graph; arguments as of `encoder_graph`."""
    inputs, outputs = decoder_specs(build.architecture, build.precision.name)
    with FakeTensorMode():
        samples, axes = _samples(traced_specs(inputs, build.architecture))
        cross = slice(3, 3 + (len(samples) - 3) // 2)
        past = slice(cross.stop, None)
        arguments = (*samples[:3], samples[cross], samples[past])
        program = _trace(DecoderGraph(build, whole=False), arguments, (*axes[:3], axes[cross], axes[past]))
    return _finish(program, build, tensors, inputs, outputs)


def _samples(specs: Sequence[TensorSpec]) -> tuple[list[torch.Tensor], list[dict[int, object]]]:
    """Arguments to trace with, and which of their axes are dynamic."""
    tensors, axes = [], []
    for spec in specs:
        shape = [axis if isinstance(axis, int) else SAMPLE_SIZES[axis] for axis in spec.axes]
        tensors.append(torch.ones(shape, dtype=getattr(torch, spec.dtype)))
        axes.append({i: torch.export.Dim.DYNAMIC for i, axis in enumerate(spec.axes) if isinstance(axis, str)})
    return tensors, axes


def _trace(network: torch.nn.Module, arguments: tuple[object, ...], axes: tuple[object, ...]) -> ir.Model:
    with _quiet():
        program = torch.onnx.export(
            network.eval(),
            arguments,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=axes,
            optimize=False,
            verbose=False,
        )
    assert program is not None, "the dynamo exporter returns a program"
    return program.model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's notes on packages that are not used here."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own pytree, deprecated by torch
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _finish(
    model: ir.Model, build: Build, tensors: Tensors, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> ir.Model:
    graph, architecture = model.graph, build.architecture
    _forget_stand_ins(graph)
    with _quiet():
        onnxscript.optimizer.optimize_ir(model)
    _name_interface(graph, traced_specs(inputs, architecture), traced_specs(outputs, architecture))
    repeat_blocks(graph, architecture, inputs, outputs)
    _name_interface(graph, inputs, outputs)
    _put_dispatch(graph, build, tensors)
    _attach(graph, architecture, tensors)
    _apply_labels(graph)
    _name_nodes(graph)
    model.opset_imports.pop("pointsman", None)
    model.producer_name, model.producer_version, model.doc_string = "pointsman", None, None
    _forget_the_tracer(model)
    graph.name = "decoder" if len(inputs) > 2 else "encoder"
    return model


def _forget_stand_ins(graph: ir.Graph) -> None:
    """Drop the tracer's weights, which have no bytes, so that no pass folds them."""
    for value in graph.initializers.values():
        if isinstance(getattr(value.const_value, "raw", None), FakeTensor):
            value.const_value = None


def _put_dispatch(graph: ir.Graph, build: Build, tensors: Tensors) -> None:
    """Put one branch per expert in the place of each `SwitchExperts` node."""

    def weight(name: str) -> ir.Value:
        if name not in graph.initializers:
            data = tensors[name]
            graph.register_initializer(
                ir.Value(name=name, shape=data.shape, type=ir.TensorType(data.dtype), const_value=data)
            )
        return graph.initializers[name]

    branches = ExpertBranches(build.architecture, build.precision, weight)
    for node in list(graph):
        if node.op_type == "SwitchExperts":
            hidden, expert = map(present, node.inputs)
            _replace(graph, node, branches.expand(hidden, expert, node.attributes["layer"].as_string()))
        elif node.op_type == "DropOverflow":
            expert, probability = map(present, node.inputs)
            experts, capacity = (node.attributes[name].as_int() for name in ("experts", "capacity"))
            _replace(graph, node, drop_overflow(expert, probability, experts, capacity, _module(node)))


def _replace(graph: ir.Graph, node: ir.Node, replacement: tuple[list[ir.Node], ir.Value]) -> None:
    nodes, result = replacement
    for new in nodes:
        new.metadata_props.update(node.metadata_props)
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, node.outputs, [result])


def present(value: ir.Value | None) -> ir.Value:
    """A node's input that is never left out."""
    assert value is not None
    return value


def _attach(graph: ir.Graph, architecture: Architecture, tensors: Tensors) -> None:
    """Point every initializer at its bytes; drop those that this graph does not use."""
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]
        elif name.endswith(".bucket_of"):
            table = bucket_table(architecture, bidirectional=name.startswith("encoder."))
            value.const_value = ir.tensor(table.numpy(), name=name)
        elif value.const_value is None:
            value.const_value = tensors[name]


def _apply_labels(graph: ir.Graph) -> None:
    """Turn `Label` nodes into names of the values that they mark."""
    for node in [node for node in graph if node.op_type == "Label"]:
        marked, (output,) = present(node.inputs[0]), node.outputs
        marked.name = node.attributes["name"].as_string()
        ir.convenience.replace_all_uses_with(output, marked)
        graph.remove(node, safe=True)


def _name_interface(graph: ir.Graph, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    for value, spec in [*zip(graph.inputs, inputs, strict=True), *zip(graph.outputs, outputs, strict=True)]:
        value.name = spec.name
        value.shape = ir.Shape(list(spec.axes))
        value.type = ir.TensorType(ir.DataType[ONNX_NAMES[spec.dtype]])


def _name_nodes(graph: ir.Graph) -> None:
    """Name nodes after the modules that they come from, and unlabelled values after their nodes."""
    kept = {id(value) for value in [*graph.inputs, *graph.outputs]}
    seen: Counter[str] = Counter()
    for node, path in _with_paths(graph, None):
        base = f"{path}/{node.op_type}"
        node.name = f"{base}_{seen[base]}" if seen[base] else base
        seen[base] += 1
        for index, value in enumerate(node.outputs):
            if id(value) not in kept and not LABELLED.fullmatch(value.name or ""):
                value.name = f"{node.name}:{index}"
    constants = [value for value in graph.initializers.values() if "." not in (value.name or "")]
    for index, value in enumerate(constants):
        value.name = f"constant.{index}"


def _forget_the_tracer(model: ir.Model) -> None:
    """Drop the notes that the exporter leaves on everything; they are larger than the graph."""
    nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
    values = [*model.graph.inputs, *model.graph.initializers.values(), *(out for node in nodes for out in node.outputs)]
    everything: list[ir.Model | ir.Graph | ir.Node | ir.Value] = [model, model.graph, *nodes, *values]
    for noted in everything:
        noted.metadata_props.clear()
        noted.doc_string = None


def _with_paths(graph: ir.Graph, path: str | None) -> Iterator[tuple[ir.Node, str]]:
    """Every node and its module path; nodes of a branch take the branch's."""
    for node in graph:
        yield node, _slashed(_module(node)) if path is None else path
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                branch = attribute.as_graph()
                yield from _with_paths(branch, _slashed(branch.name or ""))


def _module(node: ir.Node) -> str:
    """The module that a node was traced in, from the exporter's note."""
    scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
    path = scopes[-2] if len(scopes) > 1 else ""
    return "" if path.startswith("_") else path  # the exporter's own hooks start with an underscore


def _slashed(path: str) -> str:
    """`decoder.block.0.layer.0` to `/decoder/block.0/layer.0`."""
    return names.node_path(path)

"""Graphs that also give what is compared: residual streams, routers' choices, and counts of values that are not finite.

NaN and infinity are counted inside the graph, before anything that clamps: `Clip` turns NaN into a bound on some
engines, and `QuantizeLinear` saturates. A count is one number, so that large activations need not leave the graph.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx_ir as ir

from pointsman.bundle import Graph, Stack
from pointsman.errors import BundleError
from pointsman_calib.comparison.records import Side
from pointsman_calib.graphs.scan import fetch_by_token

EXPERTS: Final = ".experts"
"""What follows a block's name in the name of its router's choices."""

NON_FINITE: Final = ".non_finite"
"""What follows a tensor's name in the name of the count of its values that are not finite."""

_FLOATS: Final = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True, slots=True)
class Exposure:
    """What a graph is made to give, by the names of its values.

    Attributes:
        outputs: of the graph's own outputs, those to keep.
        streams: the residual stream after each block, whose values that are not finite are counted.
        sparse: those of them whose block has a router; its choices are given as the name and `EXPERTS`.
        layers: whether to give the streams themselves too.
    """

    outputs: tuple[str, ...]
    streams: tuple[str, ...]
    sparse: tuple[str, ...]
    layers: bool


def exposure(graph: Graph, stack: Stack, side: Side, *, layers: bool) -> Exposure:
    """What to compare of one of a variant's graphs: all of it but the decoder's own cache."""
    return Exposure(
        outputs=tuple(spec.name for spec in graph.outputs if "past + positions" not in spec.axes),
        streams=tuple(f"{side}.block.{number}" for number in range(stack.layers)),
        sparse=tuple(f"{side}.block.{number}" for number in stack.sparse_layers),
        layers=layers,
    )


def exposed(path: Path, wanted: Exposure) -> bytes:
    """A graph, serialized, that gives what is wanted in the order of computation; its weights stay beside it on disk.

    Raises:
        BundleError: the graph lacks something of it.
    """
    model = ir.load(path)
    fetch_by_token(model.graph)
    found = _Values(model.graph, path)
    given = [found[name] for name in wanted.streams] if wanted.layers else []
    given += [_named(found.choice_of(block), block + EXPERTS) for block in wanted.sparse]
    checked = {value.name: value for value in [*(found[name] for name in wanted.streams), *_clamped(model.graph)]}
    given += [_count_non_finite(model.graph, value) for value in checked.values()]
    given += [found[name] for name in wanted.outputs]
    model.graph.outputs[:] = given
    serialized: bytes = ir.to_proto(model).SerializeToString()
    return serialized


class _Values:
    """The values that a graph computes, by name."""

    def __init__(self, graph: ir.Graph, path: Path) -> None:
        self._graph, self._path = graph, path
        self._by_name = {value.name: value for node in graph for value in node.outputs}

    def __getitem__(self, name: str) -> ir.Value:
        if name not in self._by_name:
            raise BundleError(f"{self._path} does not compute {name}; export the bundle again")
        return self._by_name[name]

    def choice_of(self, block: str) -> ir.Value:
        """The expert chosen for each token: the argmax of the block's router, the only one there."""
        prefix = "/" + block.replace(".block", "/block") + "/"
        for node in self._graph:
            if node.op_type == "ArgMax" and (node.name or "").startswith(prefix):
                return node.outputs[0]
        raise BundleError(f"{self._path} has no router in {block}; export the bundle again")


def _named(value: ir.Value, name: str) -> ir.Value:
    value.name = name
    return value


def _clamped(graph: ir.Graph) -> Iterable[ir.Value]:
    """Computed floating-point values that a clamp of the graph itself is given."""
    for node in graph:
        value = node.inputs[0] if node.op_type in ("Clip", "QuantizeLinear") else None
        if value is None or value.producer() is None:
            continue
        if node.op_type == "QuantizeLinear" or value.dtype in _FLOATS:  # positions are clipped too
            yield value


def _count_non_finite(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """Add to the graph how many of a value's elements are not finite, an int64 ``[]``."""
    nodes = list(_counting(value))
    graph.extend(nodes)
    (count,) = nodes[-1].outputs
    count.name, count.dtype, count.shape = f"{value.name}{NON_FINITE}", ir.DataType.INT64, ir.Shape([])
    return count


def _counting(value: ir.Value) -> Iterator[ir.Node]:
    yield (nan := ir.node("IsNaN", [value]))
    yield (infinite := ir.node("IsInf", [value]))
    yield (either := ir.node("Or", [nan.outputs[0], infinite.outputs[0]]))
    yield (ones := ir.node("Cast", [either.outputs[0]], {"to": ir.DataType.INT64}))
    yield ir.node("ReduceSum", [ones.outputs[0]], {"keepdims": 0})

"""What is looked at inside a variant's graph: residual streams, routers' choices, outputs, values that are not finite.

What a clamp is given is counted inside the graph: `Clip` turns NaN into a bound on some engines, and `QuantizeLinear`
saturates. A count is one number, so that large activations need not leave the graph.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from pointsman.bundle import Axis, Graph, Role, Stack, names
from pointsman_calib.comparison.records import NonFinite
from pointsman_calib.corpus.batches import Batch
from pointsman_calib.graphs.pieces import GraphPieces

Array = NDArray[Any]

_CLAMPS: Final = ("Clip", "QuantizeLinear")
_FLOATS: Final = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a piece of a graph makes of a batch: a row for each token that is no padding.

    Attributes:
        clamped: for each tensor that is clamped, how many of its values are not finite.
        streams: after each block, float32 ``[tokens, d_model]``.
        experts: of each block with a router, each token's expert, int64 ``[tokens]``.
        outputs: of the encoder `cross_key.0` and so on ``[tokens, heads, d_kv]``, of the decoder `logits`
            ``[tokens, vocab]``.
    """

    clamped: Mapping[str, int]
    streams: Mapping[str, Array]
    experts: Mapping[str, NDArray[np.int64]]
    outputs: Mapping[str, Array]

    def non_finite(self) -> Iterator[NonFinite]:
        """Tensors that hold NaN or infinity."""
        floats = {**self.streams, **self.outputs}
        held = {name: int(np.count_nonzero(~np.isfinite(value))) for name, value in floats.items()}
        for name, count in {**self.clamped, **held}.items():
            if count:
                yield NonFinite(name=name, values=count)


class Probes:
    """What is looked at in one of a variant's graphs.

    Attributes:
        values: names of the values that a run must hand out.
    """

    def __init__(self, pieces: GraphPieces, interface: Graph, role: Role, stack: Stack) -> None:
        """Add to the graph what counts values that are not finite.

        Args:
            pieces: the graph.
            interface: of the graph.
            role: of the graph.
            stack: its blocks.
        """
        self._role: Role = role
        self._outputs = [spec for spec in interface.outputs if role == "encoder" or spec.name == names.LOGITS]
        self._streams = [names.block_path(role, number) for number in range(stack.layers)]
        self._choices = {
            names.expert_choice(names.sparse_layer(role, number)): names.block_path(role, number)
            for number in stack.sparse_layers
        }
        self._counts = count_clamped(pieces)
        self.values = [*self._counts, *self._streams, *self._choices, *(spec.name for spec in self._outputs)]

    def read(self, batch: Batch, values: Mapping[str, Array]) -> Seen:
        """Take what a piece gives of a batch, and leave padding out."""
        mask = batch.tokens(self._role)
        return Seen(
            clamped={tensor: int(values[count]) for count, tensor in self._counts.items() if count in values},
            streams={name: values[name][mask] for name in self._streams if name in values},
            experts={block: values[name][mask] for name, block in self._choices.items() if name in values},
            outputs={
                spec.name: rows_of_tokens(values[spec.name], spec.axes, mask)
                for spec in self._outputs
                if spec.name in values
            },
        )


def rows_of_tokens(value: Array, axes: tuple[Axis, ...], mask: NDArray[np.bool_]) -> Array:
    """The rows of an output that no padding has made, ``[tokens, ...]``.

    Args:
        value: the output.
        axes: of the output: `batch` and `source` of the encoder's, `rows` and `positions` of the decoder's.
        mask: where there is a token, ``[batch, source]`` or ``[rows, positions]``.
    """
    first, second = (names.BATCH, names.SOURCE) if names.SOURCE in axes else (names.ROWS, names.POSITIONS)
    return np.moveaxis(value, (axes.index(first), axes.index(second)), (0, 1))[mask]


def count_clamped(pieces: GraphPieces) -> dict[str, str]:
    """Add to a graph how many values that are not finite each of its clamps is given.

    Returns:
        for each value that was added, an int64 ``[]``, the name of the tensor that is clamped.
    """
    counts = {}
    for value in {value.name: value for value in _clamped(pieces.graph)}.values():
        nodes = list(_counting(value))
        count = nodes[-1].outputs[0]
        count.name, count.dtype, count.shape = f"{value.name}.non_finite", ir.DataType.INT64, ir.Shape([])
        pieces.append(nodes)
        counts[count.name] = str(value.name)
    return counts


def _clamped(graph: ir.Graph) -> Iterator[ir.Value]:
    """Computed floating-point values that a clamp of the graph itself is given.

    Not rows over their largest magnitude, by which they are multiplied again behind the clamp: it lets NaN through, and
    of rows of zeros they are always NaN.
    """
    for node in graph:
        value = node.inputs[0] if node.op_type in _CLAMPS else None
        producer = None if value is None else value.producer()
        if value is None or producer is None or producer.op_type in ("Div", "Sub"):
            continue
        if node.op_type == "QuantizeLinear" or value.dtype in _FLOATS:  # positions are clipped too
            yield value


def _counting(value: ir.Value) -> Iterator[ir.Node]:
    yield (nan := ir.node("IsNaN", [value]))
    yield (infinite := ir.node("IsInf", [value]))
    yield (either := ir.node("Or", [nan.outputs[0], infinite.outputs[0]]))
    yield (ones := ir.node("Cast", [either.outputs[0]], {"to": ir.DataType.INT64}))
    yield ir.node("ReduceSum", [ones.outputs[0]], {"keepdims": 0})

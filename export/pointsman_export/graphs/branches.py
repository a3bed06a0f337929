"""The branching expert dispatch of the fused form: sort tokens by expert, one `If` per expert, unsort.

Only the experts that are hit are read, and each sees its tokens as one dense product. An `If` that is not taken still
costs a few microseconds, so many experts are asked for in groups, and groups of groups: what a step costs grows with
the experts that are hit and with the logarithm of those there are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from pointsman.bundle import Architecture
from pointsman_export.graphs.weights import DTYPES
from pointsman_export.network import Precision, input_names

FAN_OUT = 16

Scalars = Sequence[ir.Value]


@dataclass(frozen=True, slots=True)
class Segments:
    """Tokens sorted by expert.

    Attributes:
        tokens: [tokens, d_model], sorted.
        starts: int64 [1] per expert, and one more: expert k owns rows starts[k] to starts[k + 1].
    """

    tokens: ir.Value
    starts: Scalars


class ExpertBranches:
    """Builds what takes the place of one `SwitchExperts` node.

    Args:
        architecture: sizes.
        precision: dtypes.
        weight: the initializer of a name.
    """

    def __init__(self, architecture: Architecture, precision: Precision, weight: Callable[[str], ir.Value]) -> None:
        self.architecture, self.precision, self.weight = architecture, precision, weight
        self.numpy_dtype, _ = DTYPES[precision.name]

    def expand(self, hidden: ir.Value, expert: ir.Value, layer: str) -> tuple[list[ir.Node], ir.Value]:
        """Nodes that compute what the node stands for, and their result.

        Args:
            hidden: [batch, tokens, d_model].
            expert: int64 [batch, tokens].
            layer: module path of the sparse layer.
        """
        tape = Tape()
        d_model = self.architecture.d_model
        flat = tape.op("Reshape", [hidden, constant(tape, [-1, d_model])])
        chosen = tape.op("Reshape", [expert, constant(tape, [-1])])
        count = tape.op("Shape", [chosen])
        order = sorting_order(tape, chosen, count)
        tokens = tape.op("Gather", [flat, order], attributes={"axis": 0})
        outputs = self.experts(
            tape, Segments(tokens, self.starts(tape, chosen)), range(self.architecture.num_experts), layer
        )
        grouped = tape.op("Concat", outputs, attributes={"axis": 0})
        unsorted = tape.op("Gather", [grouped, sorting_order(tape, order, count)], attributes={"axis": 0})
        result = tape.op("Reshape", [unsorted, tape.op("Shape", [hidden])], attributes={"allowzero": 1})
        return list(tape.nodes), result

    def starts(self, tape: Tape, chosen: ir.Value) -> Scalars:
        """First row of each expert, and the end of the last: how many tokens chose an expert below it."""
        bounds = self.architecture.num_experts + 1
        below = tape.op("Less", [tape.op("Unsqueeze", [chosen, constant(tape, [1])]), constant(tape, range(bounds))])
        whole = tape.op("Cast", [below], attributes={"to": ir.DataType.INT64})
        counts = tape.op("ReduceSum", [whole, constant(tape, [0])], attributes={"keepdims": 0})
        return tape.op_multi_out("Split", [counts], {"axis": 0, "num_outputs": bounds}, num_outputs=bounds)

    def experts(self, tape: Tape, segments: Segments, numbers: range, layer: str) -> list[ir.Value]:
        """Outputs of these experts in order: one value for each of a few, or for each group of many."""
        if len(numbers) <= FAN_OUT:
            return [self.branch(tape, segments, range(k, k + 1), layer) for k in numbers]
        size = FAN_OUT
        while size * FAN_OUT < len(numbers):
            size *= FAN_OUT
        groups = (numbers[first : first + size] for first in range(0, len(numbers), size))
        return [self.branch(tape, segments, group, layer) for group in groups]

    def branch(self, tape: Tape, segments: Segments, numbers: range, layer: str) -> ir.Value:
        """Ask whether any of these experts has tokens, and run them only then."""
        hit = tape.op("Greater", [segments.starts[numbers.stop], segments.starts[numbers.start]])
        taken, skipped = Tape(), Tape()
        if len(numbers) == 1:
            output = self.expert(taken, segments, numbers.start, layer)
        else:
            output = taken.op("Concat", self.experts(taken, segments, numbers, layer), attributes={"axis": 0})
        empty = constant(skipped, np.zeros((0, self.architecture.d_model), self.numpy_dtype))
        last = numbers.stop - 1
        name = f"{layer}.expert.{last}" if len(numbers) == 1 else f"{layer}.experts.{numbers.start}_{last}"
        branches = {
            "then_branch": subgraph(taken, output, f"{name}.hit"),
            "else_branch": subgraph(skipped, empty, f"{name}.idle"),
        }
        return tape.op("If", [hit], attributes=branches)

    def expert(self, tape: Tape, segments: Segments, number: int, layer: str) -> ir.Value:
        """One expert over its rows."""
        start, stop = segments.starts[number], segments.starts[number + 1]
        rows = tape.op("Slice", [segments.tokens, start, stop, constant(tape, [0])])
        weights = [
            self.weight(f"{layer}.experts.expert_{number}.{name}.weight") for name in input_names(self.architecture)
        ]
        inner = self.activate(tape, tape.op("MatMul", [rows, weights[0]]))
        if self.precision.wo_scale != 1.0:
            inner = tape.op("Mul", [inner, constant(tape, np.array(self.precision.wo_scale, self.numpy_dtype))])
        for gate in weights[1:]:
            inner = tape.op("Mul", [inner, tape.op("MatMul", [rows, gate])])
        return tape.op("MatMul", [inner, self.weight(f"{layer}.experts.expert_{number}.wo.weight")])

    def activate(self, tape: Tape, inner: ir.Value) -> ir.Value:
        """The architecture's activation."""
        name = self.architecture.activation
        if name == "silu":
            return tape.op("Mul", [inner, tape.op("Sigmoid", [inner])])
        if name == "relu":
            return tape.op("Relu", [inner])
        return tape.op("Gelu", [inner], attributes={"approximate": "tanh" if name == "gelu_tanh" else "none"})


def drop_overflow(
    expert: ir.Value, probability: ir.Value, experts: int, capacity: int, name: str
) -> tuple[list[ir.Node], ir.Value]:
    """What takes the place of a `DropOverflow` node: count ranks only where a sequence is longer than the capacity.

    Args:
        expert: int64 [batch, tokens].
        probability: float32 [batch, tokens].
        experts: how many there are.
        capacity: tokens that each accepts from one sequence.
        name: module path of the sparse layer.
    """
    tape, counting, passing = Tape(), Tape(), Tape()
    tokens = tape.op("Shape", [expert], attributes={"start": 1, "end": 2})
    chosen = counting.op(
        "Equal", [counting.op("Unsqueeze", [expert, constant(counting, [2])]), constant(counting, range(experts))]
    )
    ones = counting.op("Cast", [chosen], attributes={"to": ir.DataType.INT64})
    so_far = counting.op("CumSum", [ones, constant(counting, np.array(1))])
    place = counting.op(
        "ReduceSum", [counting.op("Mul", [so_far, ones]), constant(counting, [2])], attributes={"keepdims": 0}
    )
    kept = counting.op("LessOrEqual", [place, constant(counting, np.array(capacity))])
    zero = constant(counting, np.array(0, np.float32))
    dropped = counting.op("Where", [kept, probability, zero])
    branches = {
        "then_branch": subgraph(counting, dropped, f"{name}.overflow"),
        "else_branch": subgraph(passing, passing.op("Identity", [probability]), f"{name}.fits"),
    }
    longer = tape.op("Greater", [tokens, constant(tape, [capacity])])
    result = tape.op("If", [longer], attributes=branches)
    return list(tape.nodes), result


def sorting_order(tape: Tape, values: ir.Value, count: ir.Value) -> ir.Value:
    """Indices that sort an int64 vector, stably: TopK puts the lower index first among equals."""
    _, order = tape.op_multi_out(
        "TopK", [values, count], attributes={"axis": 0, "largest": 0, "sorted": 1}, num_outputs=2
    )
    return order


def subgraph(tape: Tape, output: ir.Value, name: str) -> ir.Graph:
    """A branch's graph: no inputs, everything else from the enclosing graphs."""
    return ir.Graph([], [output], nodes=tape.nodes, name=name)


def constant(tape: Tape, values: Sequence[int] | range | np.ndarray) -> ir.Value:
    """An int64 list, or an array as it is."""
    array = values if isinstance(values, np.ndarray) else np.array(list(values), np.int64)
    return tape.op("Constant", [], attributes={"value": ir.tensor(array)})

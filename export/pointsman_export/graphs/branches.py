"""The branching expert dispatch of the fused form: sort tokens by expert, one `If` per expert, unsort.

Only the experts that are hit are read, and each sees its tokens as one dense product. An `If` that is not taken still
costs a few microseconds, so many experts are asked for in groups, and groups of groups: what a step costs grows with
the experts that are hit and with the logarithm of those there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from pointsman.bundle import names
from pointsman_export.checkpoint import NUMPY_DTYPES
from pointsman_export.graphs.experts import Routing, feed_forward, kept, places
from pointsman_export.graphs.scope import Branch, Scope
from pointsman_export.network import Build, projection_names

FAN_OUT = 16


@dataclass(frozen=True, slots=True)
class Segments:
    """Tokens sorted by expert.

    Attributes:
        tokens: [tokens, d_model], sorted.
        starts: int64 [1] per expert, and one more: expert k owns rows starts[k] to starts[k + 1].
    """

    tokens: ir.Value
    starts: Sequence[ir.Value]


def dispatched(mlp: Scope, build: Build, states: ir.Value, routing: Routing) -> tuple[ir.Value, ir.Value]:
    """Tokens through their experts.

    Args:
        mlp: the module.
        build: sizes and capacity.
        states: [batch, tokens, d_model] in the precision's dtype.
        routing: which expert.

    Returns:
        [batch, tokens, d_model], and what each token is to be scaled by, float32 [batch, tokens].
    """
    flat = mlp.op("Reshape", states, mlp.constant([-1, build.architecture.d_model]))
    chosen = mlp.op("Reshape", routing.expert, mlp.constant([-1]))
    count = mlp.op("Shape", chosen)
    order = _sorting_order(mlp, chosen, count)
    segments = Segments(mlp.op("Gather", flat, order, axis=0), _starts(mlp, build, chosen))
    outputs = _branches(mlp, build, segments, range(build.architecture.num_experts), mlp.path)
    grouped = mlp.op("Concat", *outputs, axis=0)
    unsorted = mlp.op("Gather", grouped, _sorting_order(mlp, order, count), axis=0)
    output = mlp.op("Reshape", unsorted, mlp.op("Shape", states), allowzero=1)
    return output, _weight(mlp, build, routing)


def _sorting_order(scope: Scope, values: ir.Value, count: ir.Value) -> ir.Value:
    """Indices that sort an int64 vector, stably: TopK puts the lower index first among equals."""
    _, order = scope.outputs(2, "TopK", values, count, axis=0, largest=0, sorted=1)
    return order


def _starts(mlp: Scope, build: Build, chosen: ir.Value) -> Sequence[ir.Value]:
    """First row of each expert, and the end of the last: how many tokens chose an expert below it."""
    bounds = build.architecture.num_experts + 1
    below = mlp.op("Less", mlp.op("Unsqueeze", chosen, mlp.constant([1])), mlp.constant(range(bounds)))
    counts = mlp.op("ReduceSum", mlp.op("Cast", below, to=ir.DataType.INT64), mlp.constant([0]), keepdims=0)
    return mlp.outputs(bounds, "Split", counts, axis=0, num_outputs=bounds)


def _branches(scope: Scope, build: Build, segments: Segments, numbers: range, layer: str) -> Sequence[ir.Value]:
    """Outputs of these experts in order: one value for each of a few, or for each group of many."""
    if len(numbers) <= FAN_OUT:
        return [_branch(scope, build, segments, range(k, k + 1), layer) for k in numbers]
    size = FAN_OUT
    while size * FAN_OUT < len(numbers):
        size *= FAN_OUT
    groups = (numbers[first : first + size] for first in range(0, len(numbers), size))
    return [_branch(scope, build, segments, group, layer) for group in groups]


def _branch(scope: Scope, build: Build, segments: Segments, numbers: range, layer: str) -> ir.Value:
    """Ask whether any of these experts has tokens, and run them only then."""
    hit = scope.op("Greater", segments.starts[numbers.stop], segments.starts[numbers.start])
    path = names.branch_path(layer, numbers)
    taken, skipped = scope.branched(f"{path}.hit"), scope.branched(f"{path}.idle")
    if len(numbers) == 1:
        output = _expert(taken, build, segments, numbers.start, layer)
    else:
        output = taken.op("Concat", *_branches(taken, build, segments, numbers, layer), axis=0)
    numpy_dtype = NUMPY_DTYPES[build.precision.name]
    empty = skipped.constant(np.zeros((0, build.architecture.d_model), numpy_dtype))
    dtype = segments.tokens.type
    return scope.choice(hit, Branch(taken, output, dtype), Branch(skipped, empty, dtype))


def _expert(scope: Scope, build: Build, segments: Segments, number: int, layer: str) -> ir.Value:
    """One expert over its rows."""
    start, stop = segments.starts[number], segments.starts[number + 1]
    rows = scope.op("Slice", segments.tokens, start, stop, scope.constant([0]))
    *inputs, wo = (
        scope.construction.weight(names.expert_weight(layer, number, name))
        for name in projection_names(build.architecture)
    )
    return feed_forward(scope, build, rows, inputs, wo)


def _weight(mlp: Scope, build: Build, routing: Routing) -> ir.Value:
    """What each token is scaled by; ranks are counted only where a sequence is longer than the capacity."""
    if build.capacity is None:
        return routing.probability
    longer = mlp.op("Greater", mlp.length(routing.expert, 1), mlp.constant([build.capacity]))
    counting, passing = mlp.branched(f"{mlp.path}.overflow"), mlp.branched(f"{mlp.path}.fits")
    place = places(counting, routing.expert, build.architecture.num_experts)
    dropped = kept(counting, routing.probability, place, build.capacity)
    same = passing.op("Identity", routing.probability)
    dtype = routing.probability.type
    return mlp.choice(longer, Branch(counting, dropped, dtype), Branch(passing, same, dtype))

"""The branching expert dispatch of the fused form: sort tokens by expert, one `If` per expert, unsort.

Only the experts that are hit are read, and each sees its tokens as one dense product. An `If` that is not taken still
costs a few microseconds, so many experts are asked for in groups, and groups of groups: what a step costs grows with
the experts that are hit and with the logarithm of those there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from pointsman.bundle import names
from pointsman_export.checkpoint import NUMPY_DTYPES
from pointsman_export.graphs.experts import Routing, feed_forward, kept, places
from pointsman_export.graphs.scope import Branch, Scope
from pointsman_export.network import Build, projection_names

FAN_OUT = 8


@dataclass(frozen=True, slots=True)
class Segments:
    """Tokens sorted by expert.

    Attributes:
        tokens: [tokens, d_model], sorted.
        bounds: int64 [experts + 1]: expert k owns rows bounds[k] to bounds[k + 1].
    """

    tokens: ir.Value
    bounds: ir.Value


class _Group(NamedTuple):
    """Experts that are asked for together, and the first of their rows and the one behind the last, int64 [1] each."""

    numbers: range
    rows: tuple[ir.Value, ir.Value]


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
    segments = Segments(mlp.op("Gather", flat, order, axis=0), _bounds(mlp, build, chosen))
    outputs = _branches(mlp, build, segments, range(build.architecture.num_experts), mlp.path)
    grouped = mlp.op("Concat", *outputs, axis=0)
    unsorted = mlp.op("Gather", grouped, _sorting_order(mlp, order, count), axis=0)
    output = mlp.op("Reshape", unsorted, mlp.op("Shape", states), allowzero=1)
    return output, _weight(mlp, build, routing)


def _sorting_order(scope: Scope, values: ir.Value, count: ir.Value) -> ir.Value:
    """Indices that sort an int64 vector, stably: TopK puts the lower index first among equals."""
    _, order = scope.outputs(2, "TopK", values, count, axis=0, largest=0, sorted=1)
    return order


def _bounds(mlp: Scope, build: Build, chosen: ir.Value) -> ir.Value:
    """First row of each expert, and the end of the last: how many tokens chose an expert below it."""
    bounds = range(build.architecture.num_experts + 1)
    below = mlp.op("Less", mlp.op("Unsqueeze", chosen, mlp.constant([1])), mlp.constant(bounds))
    return mlp.op("ReduceSum", mlp.op("Cast", below, to=ir.DataType.INT64), mlp.constant([0]), keepdims=0)


def _branches(scope: Scope, build: Build, segments: Segments, numbers: range, layer: str) -> Sequence[ir.Value]:
    """Outputs of these experts in order: one value for each of a few, or for each group of many."""
    size = 1
    while size * FAN_OUT < len(numbers):
        size *= FAN_OUT
    groups = [numbers[first : first + size] for first in range(0, len(numbers), size)]
    rows = pairwise(_starts(scope, build, segments, groups))
    return [_branch(scope, build, segments, _Group(*own), layer) for own in zip(groups, rows, strict=True)]


def _starts(scope: Scope, build: Build, segments: Segments, groups: Sequence[range]) -> Sequence[ir.Value]:
    """First row of each group of experts, and the end of the last: int64 [1] each."""
    wanted = [*(group.start for group in groups), groups[-1].stop]
    bounds = segments.bounds
    if len(wanted) <= build.architecture.num_experts:
        bounds = scope.op("Gather", bounds, scope.constant(wanted), axis=0)
    return scope.outputs(len(wanted), "Split", bounds, axis=0, num_outputs=len(wanted))


def _branch(scope: Scope, build: Build, segments: Segments, group: _Group, layer: str) -> ir.Value:
    """Ask whether any of these experts has tokens, and run them only then."""
    start, stop = group.rows
    hit = scope.op("Greater", stop, start)
    path = names.branch_path(layer, group.numbers)
    taken, skipped = scope.branched(f"{path}.hit"), scope.branched(f"{path}.idle")
    if len(group.numbers) == 1:
        output = _expert(taken, build, segments, group, layer)
    else:
        output = taken.op("Concat", *_branches(taken, build, segments, group.numbers, layer), axis=0)
    numpy_dtype = NUMPY_DTYPES[build.precision.name]
    empty = skipped.constant(np.zeros((0, build.architecture.d_model), numpy_dtype))
    dtype = segments.tokens.type
    return scope.choice(hit, Branch(taken, output, dtype), Branch(skipped, empty, dtype))


def _expert(scope: Scope, build: Build, segments: Segments, group: _Group, layer: str) -> ir.Value:
    """One expert over its rows."""
    rows = scope.op("Slice", segments.tokens, *group.rows, scope.constant([0]))
    *inputs, wo = (
        scope.construction.weight(names.expert_weight(layer, group.numbers.start, name))
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

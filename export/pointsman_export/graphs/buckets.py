"""The static expert dispatches of the portable form: shapes do not depend on data, and there is no control flow.

For few tokens each token's expert is fetched, so that only experts that are hit are read. For many, tokens are
scattered into one bucket per expert and sequence, all experts run as one batched product, and tokens are gathered
back (GShard, Lepikhin et al. 2020, with indices in place of one-hot products).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from pointsman.bundle import names
from pointsman_export.checkpoint import NUMPY_DTYPES
from pointsman_export.graphs.experts import Routing, feed_forward, kept, places
from pointsman_export.graphs.scope import Scope
from pointsman_export.network import Build, projection_names


@dataclass(frozen=True, slots=True)
class Buckets:
    """The buckets of a graph, before any tokens are in them.

    Attributes:
        batch: int64 [1], sequences.
        size: int64 [1], tokens that a bucket holds: those of a sequence, or as many as an expert accepts of it.
        spill: int64 [1], the row behind all buckets of a sequence, which tokens past the capacity share.
        empty: zeros, [batch, experts * size + 1, d_model].
        spilt: zeros, [batch, 1, d_model], what tokens past the capacity get.
    """

    batch: ir.Value
    size: ir.Value
    spill: ir.Value
    empty: ir.Value
    spilt: ir.Value

    @classmethod
    def of(cls, scope: Scope, build: Build, input_ids: ir.Value) -> "Buckets":
        """Those of a graph whose input is int64 [batch, tokens]."""
        batch, size = scope.length(input_ids, 0), scope.length(input_ids, 1)
        if build.capacity is not None:
            size = scope.op("Min", size, scope.constant([build.capacity]))
        spill = scope.op("Mul", size, scope.constant([build.architecture.num_experts]))
        one = scope.constant([1])
        zeros = [_zeros(scope, build, batch, rows) for rows in (scope.op("Add", spill, one), one)]
        return cls(batch, size, spill, *zeros)


def dispatched(
    mlp: Scope, build: Build, states: ir.Value, routing: Routing, buckets: Buckets | None
) -> tuple[ir.Value, ir.Value]:
    """Tokens through their experts.

    Args:
        mlp: the module.
        build: sizes and capacity.
        states: [batch, tokens, d_model] in the precision's dtype.
        routing: which expert.
        buckets: to scatter tokens into; None to fetch each token's expert.

    Returns:
        [batch, tokens, d_model], and what each token is to be scaled by, float32 [batch, tokens].
    """
    experts, capacity = build.architecture.num_experts, build.capacity
    if buckets is None and capacity is None:
        return _fetched(mlp, build, states, routing.expert), routing.probability
    place = places(mlp, routing.expert, experts)
    weight = routing.probability if capacity is None else kept(mlp, routing.probability, place, capacity)
    if buckets is None:
        return _fetched(mlp, build, states, routing.expert), weight
    return _bucketed(mlp, build, states, _slots(mlp, build, routing.expert, place, buckets), buckets), weight


def _fetched(mlp: Scope, build: Build, states: ir.Value, expert: ir.Value) -> ir.Value:
    """Fetch each token's expert and apply it."""
    chosen = mlp.op("Reshape", expert, mlp.constant([-1]))
    rows = mlp.op("Reshape", states, mlp.constant([-1, 1, build.architecture.d_model]))
    *inputs, wo = (mlp.op("Gather", weight, chosen, axis=0) for weight in _stacked(mlp, build))
    return mlp.op("Reshape", feed_forward(mlp, build, rows, inputs, wo), mlp.op("Shape", states))


def _slots(mlp: Scope, build: Build, expert: ir.Value, place: ir.Value, buckets: Buckets) -> ir.Value:
    """The row of each token among all buckets of its sequence, int64 [batch, tokens, d_model]."""
    rank = mlp.op("Sub", place, mlp.scalar(1))
    own = mlp.op("Add", mlp.op("Mul", expert, buckets.size), rank)
    slot = mlp.op("Where", mlp.op("Less", rank, buckets.size), own, buckets.spill)
    wide = mlp.constant([1, 1, build.architecture.d_model])
    return mlp.op("Expand", mlp.op("Unsqueeze", slot, mlp.constant([-1])), wide)


def _bucketed(mlp: Scope, build: Build, states: ir.Value, slots: ir.Value, buckets: Buckets) -> ir.Value:
    """Run all experts at once on their buckets; tokens past the capacity get zero."""
    d_model, experts = (mlp.constant([size]) for size in (build.architecture.d_model, build.architecture.num_experts))
    filled = mlp.op("ScatterElements", buckets.empty, slots, states, axis=1)
    within = mlp.op("Slice", filled, mlp.constant([0]), buckets.spill, mlp.constant([1]))
    split = _reshaped(mlp, within, [buckets.batch, experts, buckets.size, d_model])
    rows_of_each = mlp.constant([build.architecture.num_experts, -1, build.architecture.d_model])
    rows = mlp.op("Reshape", mlp.op("Transpose", split, perm=[1, 0, 2, 3]), rows_of_each)
    *inputs, wo = _stacked(mlp, build)
    output = feed_forward(mlp, build, rows, inputs, wo)
    split = _reshaped(mlp, output, [experts, buckets.batch, buckets.size, d_model])
    transposed = mlp.op("Transpose", split, perm=[1, 0, 2, 3])
    joined = _reshaped(mlp, transposed, [buckets.batch, buckets.spill, d_model])
    return mlp.op("GatherElements", mlp.op("Concat", joined, buckets.spilt, axis=1), slots, axis=1)


def _stacked(mlp: Scope, build: Build) -> Sequence[ir.Value]:
    """The weights of all experts: the input projections, and `wo`."""
    return [
        mlp.construction.weight(names.stacked_experts(mlp.path, name)) for name in projection_names(build.architecture)
    ]


def _reshaped(mlp: Scope, value: ir.Value, shape: Sequence[ir.Value]) -> ir.Value:
    return mlp.op("Reshape", value, mlp.op("Concat", *shape, axis=0))


def _zeros(scope: Scope, build: Build, batch: ir.Value, rows: ir.Value) -> ir.Value:
    shape = scope.op("Concat", batch, rows, scope.constant([build.architecture.d_model]), axis=0)
    numpy_dtype = NUMPY_DTYPES[build.precision.name]
    return scope.op("ConstantOfShape", shape, value=ir.tensor(np.zeros(1, numpy_dtype)))

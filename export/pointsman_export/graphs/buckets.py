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

_END = np.iinfo(np.int64).max  # of an axis, however long


@dataclass(frozen=True, slots=True)
class Buckets:
    """The buckets of a graph, before any tokens are in them.

    Attributes:
        batch: int64 [1], sequences.
        empty: zeros, [batch, 1 + size * experts, d_model]; `size` tokens of a sequence have room in each bucket: all,
            or as many as an expert accepts of it. The first row is that of tokens past the capacity; then come the
            first tokens of all experts, their second ones, and so on, so that no place depends on `size`.
        spilt: zeros, [batch, 1, d_model], what tokens past the capacity get.
    """

    batch: ir.Value
    empty: ir.Value
    spilt: ir.Value

    @classmethod
    def of(cls, scope: Scope, build: Build, input_ids: ir.Value) -> "Buckets":
        """Those of a graph whose input is int64 [batch, tokens]."""
        batch, size = scope.length(input_ids, 0), scope.length(input_ids, 1)
        if build.capacity is not None:
            size = scope.op("Min", size, scope.constant([build.capacity]))
        places, one = scope.op("Mul", size, scope.constant([build.architecture.num_experts])), scope.constant([1])
        zeros = [_zeros(scope, build, batch, rows) for rows in (scope.op("Add", places, one), one)]
        return cls(batch, *zeros)


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
    return _bucketed(mlp, build, states, _slots(mlp, build, routing.expert, place), buckets), weight


def _fetched(mlp: Scope, build: Build, states: ir.Value, expert: ir.Value) -> ir.Value:
    """Fetch each token's expert and apply it."""
    chosen = mlp.op("Reshape", expert, mlp.constant([-1]))
    rows = mlp.op("Reshape", states, mlp.constant([-1, 1, build.architecture.d_model]))
    *inputs, wo = (mlp.op("Gather", weight, chosen, axis=0) for weight in _stacked(mlp, build))
    output = feed_forward(mlp, build, rows, inputs, wo)
    if build.positions is not None:
        return mlp.op("Reshape", output, mlp.constant([-1, build.positions, build.architecture.d_model]))
    return mlp.op("Reshape", output, mlp.op("Shape", states))


def _slots(mlp: Scope, build: Build, expert: ir.Value, place: ir.Value) -> ir.Value:
    """The row of each token among all buckets of its sequence, int64 [batch, tokens, d_model]."""
    experts = build.architecture.num_experts
    before = mlp.op("Sub", mlp.op("Mul", place, mlp.scalar(experts)), mlp.scalar(experts - 1))
    slot = mlp.op("Add", before, expert)
    if build.capacity is not None:
        slot = mlp.op("Where", mlp.op("LessOrEqual", place, mlp.scalar(build.capacity)), slot, mlp.scalar(0))
    wide = mlp.constant([1, 1, build.architecture.d_model])
    return mlp.op("Expand", mlp.op("Unsqueeze", slot, mlp.constant([-1])), wide)


def _bucketed(mlp: Scope, build: Build, states: ir.Value, slots: ir.Value, buckets: Buckets) -> ir.Value:
    """Run all experts at once on their buckets; tokens past the capacity get zero."""
    d_model, experts = build.architecture.d_model, build.architecture.num_experts
    filled = mlp.op("ScatterElements", buckets.empty, slots, states, axis=1)
    within = mlp.op("Slice", filled, mlp.constant([1]), mlp.constant([_END]), mlp.constant([1]))
    split = mlp.op("Reshape", within, mlp.constant([0, -1, experts, d_model]))
    rows = mlp.op("Reshape", mlp.op("Transpose", split, perm=[2, 0, 1, 3]), mlp.constant([experts, -1, d_model]))
    *inputs, wo = _stacked(mlp, build)
    output = feed_forward(mlp, build, rows, inputs, wo)
    sizes = mlp.constant([experts]), buckets.batch, mlp.constant([-1, d_model])
    split = mlp.op("Reshape", output, mlp.op("Concat", *sizes, axis=0))
    joined = mlp.op("Reshape", mlp.op("Transpose", split, perm=[1, 2, 0, 3]), mlp.constant([0, -1, d_model]))
    return mlp.op("GatherElements", mlp.op("Concat", buckets.spilt, joined, axis=1), slots, axis=1)


def _stacked(mlp: Scope, build: Build) -> Sequence[ir.Value]:
    """The weights of all experts: the input projections, and `wo`."""
    return [
        mlp.construction.weight(names.stacked_experts(mlp.path, name)) for name in projection_names(build.architecture)
    ]


def _zeros(scope: Scope, build: Build, batch: ir.Value, rows: ir.Value) -> ir.Value:
    shape = scope.op("Concat", batch, rows, scope.constant([build.architecture.d_model]), axis=0)
    numpy_dtype = NUMPY_DTYPES[build.precision.name]
    return scope.op("ConstantOfShape", shape, value=ir.tensor(np.zeros(1, numpy_dtype)))

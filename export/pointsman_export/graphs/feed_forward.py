"""Feed-forward networks as nodes: dense ones, and Mixtures of Experts."""

import onnx_ir as ir

from pointsman_export.graphs import branches, buckets
from pointsman_export.graphs.buckets import Buckets
from pointsman_export.graphs.experts import feed_forward, routed, unscaled
from pointsman_export.graphs.layers import normed
from pointsman_export.graphs.scope import Scope
from pointsman_export.network import Build, projection_names


def feed_forward_layer(
    layer: Scope, build: Build, hidden: ir.Value, *, sparse: bool, into: Buckets | None = None
) -> ir.Value:
    """Norm, feed-forward network or experts, residual: the stream's dtype [rows, tokens, d_model].

    Args:
        layer: the module.
        build: sizes, form, precision, capacity.
        hidden: the stream's dtype [rows, tokens, d_model].
        sparse: whether it has experts.
        into: the buckets of the portable form's experts; None for few tokens at a time (the decoder step).
    """
    mlp, states = layer.at("mlp"), normed(layer, build, hidden)
    output = _sparse(mlp, build, states, into) if sparse else _dense(mlp, build, states)
    return layer.op("Add", hidden, unscaled(mlp, build, output))


def _dense(mlp: Scope, build: Build, states: ir.Value) -> ir.Value:
    dtype = build.precision.name
    *inputs, wo = (mlp.weight(f"{name}.weight") for name in projection_names(build.architecture))
    return mlp.cast(feed_forward(mlp, build, mlp.cast(states, dtype), inputs, wo), build.precision.stream)


def _sparse(mlp: Scope, build: Build, states: ir.Value, into: Buckets | None) -> ir.Value:
    dtype, routing = build.precision.name, routed(mlp, build, states)
    rows = mlp.cast(states, dtype)
    if build.form == "fused":
        output, weight = branches.dispatched(mlp, build, rows, routing)
    else:
        output, weight = buckets.dispatched(mlp, build, rows, routing, into)
    scale = mlp.cast(mlp.op("Unsqueeze", weight, mlp.constant([-1])), build.precision.stream)
    return mlp.op("Mul", mlp.cast(output, build.precision.stream), scale)

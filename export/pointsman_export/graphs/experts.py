"""What both expert dispatches are made of: the router, one expert's network, and counting tokens along a sequence.

Routing follows Fedus et al., "Switch Transformers" (2021), §2.1, as transformers 5.23.0 computes it: the softmax runs
in float32 over all experts, the winner's output is scaled by its probability, and tokens past an expert's capacity,
counted along each sequence, get zero from the layer.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from pointsman.bundle import Activation, names
from pointsman_export.checkpoint import NUMPY_DTYPES
from pointsman_export.graphs.layers import linear
from pointsman_export.graphs.scope import Scope
from pointsman_export.network import Build


class Routing(NamedTuple):
    """Where each token goes.

    Attributes:
        expert: int64 [batch, tokens], the chosen expert.
        probability: float32 [batch, tokens], the router's probability of it.
    """

    expert: ir.Value
    probability: ir.Value


def routed(mlp: Scope, build: Build, states: ir.Value) -> Routing:
    """Choose one expert per token; of equally likely ones, the first.

    Args:
        mlp: the module.
        build: for the router's bias, and how many tokens there are.
        states: the stream's dtype [batch, tokens, d_model].
    """
    classifier = mlp.module(names.module_of(names.router_weight(mlp.path)))
    logits = linear(classifier, mlp.cast(states, "float32"))
    if build.architecture.router_bias:
        logits = classifier.op("Add", logits, mlp.construction.weight(names.router_bias(mlp.path)))
    probabilities = mlp.op("Softmax", logits, axis=-1)
    if build.positions == 1:
        return _highest(mlp, probabilities)
    expert = mlp.op("ArgMax", probabilities, axis=-1, keepdims=0)
    return Routing(expert, mlp.op("ReduceMax", probabilities, mlp.constant([-1]), keepdims=0))


def _highest(mlp: Scope, probabilities: ir.Value) -> Routing:
    """The same in one node, which is one kernel on a GPU where the others are three."""
    found = mlp.outputs(2, "TopK", probabilities, mlp.constant([1]), axis=-1)
    probability, expert = (mlp.op("Squeeze", value, mlp.constant([-1])) for value in found)
    expert.name = names.expert_choice(mlp.path)
    return Routing(expert, probability)


def feed_forward(
    scope: Scope, build: Build, hidden: ir.Value, input_weights: Sequence[ir.Value], wo: ir.Value
) -> ir.Value:
    """One expert, or a batch of them: `activation(x @ wi) @ wo`, or `activation(x @ wi_0) * (x @ wi_1) @ wo`.

    Args:
        scope: where.
        build: activation and precision, by whose scale the result is multiplied.
        hidden: [..., tokens, d_model].
        input_weights: `(wi,)` or `(wi_0, wi_1)`, each [..., d_model, d_ff].
        wo: [..., d_ff, d_model].

    Returns:
        [..., tokens, d_model].
    """
    inner = activated(scope, build.architecture.activation, scope.op("MatMul", hidden, input_weights[0]))
    if build.precision.wo_scale != 1.0:
        numpy_dtype = NUMPY_DTYPES[build.precision.name]
        inner = scope.op("Mul", inner, scope.constant(np.array(build.precision.wo_scale, numpy_dtype)))
    for gate in input_weights[1:]:
        inner = scope.op("Mul", inner, scope.op("MatMul", hidden, gate))
    return scope.op("MatMul", inner, wo)


def activated(scope: Scope, activation: Activation, inner: ir.Value) -> ir.Value:
    """The architecture's activation; `gelu_tanh` is T5 v1.1's `gelu_new`."""
    if activation == "silu":
        return scope.op("Mul", inner, scope.op("Sigmoid", inner))
    if activation == "relu":
        return scope.op("Relu", inner)
    return scope.op("Gelu", inner, approximate="tanh" if activation == "gelu_tanh" else "none")


def unscaled(mlp: Scope, build: Build, output: ir.Value) -> ir.Value:
    """Undo the precision's scale, in float32."""
    scale = build.precision.wo_scale
    return output if scale == 1.0 else mlp.op("Mul", output, mlp.constant(np.array(1.0 / scale, np.float32)))


def places(scope: Scope, expert: ir.Value, experts: int) -> ir.Value:
    """How many tokens of the sequence, up to each and with it, chose its expert: int64 [batch, tokens], from 1."""
    chosen = scope.op("Equal", scope.op("Unsqueeze", expert, scope.constant([-1])), scope.constant(range(experts)))
    ones = scope.op("Cast", chosen, to=ir.DataType.INT64)
    so_far = scope.op("CumSum", ones, scope.scalar(1))
    return scope.op("ReduceSum", scope.op("Mul", so_far, ones), scope.constant([-1]), keepdims=0)


def kept(scope: Scope, probability: ir.Value, place: ir.Value, capacity: int) -> ir.Value:
    """The probabilities, with zero for tokens past their expert's capacity: their layer's output is then zero."""
    within = scope.op("LessOrEqual", place, scope.scalar(capacity))
    return scope.op("Where", within, probability, scope.constant(np.array(0, np.float32)))

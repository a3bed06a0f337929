"""The static dispatches: the same numbers as a loop over tokens, with each token's expert fetched, and in buckets."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from dispatches import (
    ELEMENTS,
    build_of,
    choices,
    in_a_loop,
    place,
    session_of,
    sized,
    stacked,
    value,
    weights_of,
    within,
)
from pointsman.bundle import Architecture
from pointsman_export.graphs.buckets import Buckets, dispatched
from pointsman_export.graphs.experts import Routing
from pointsman_export.network import Precision
from tolerances import FLOAT16_LOGITS, ONE_EXPERT_LAYER

FEW_OR_MANY = pytest.mark.parametrize("few", [True, False], ids=["fetched", "in buckets"])


def dispatch(
    architecture: Architecture,
    weights: dict[str, np.ndarray],
    dtype: str = "float32",
    *,
    few: bool,
    capacity: int | None = None,
) -> onnxruntime.InferenceSession:
    layer, axes = place(stacked(architecture, weights), dtype), ("batch", "tokens")
    build = build_of(architecture, "portable", dtype, capacity)
    hidden = value("hidden", ELEMENTS[dtype], *axes, architecture.d_model)
    routing = Routing(value("expert", ir.DataType.INT64, *axes), value("probability", ir.DataType.FLOAT, *axes))
    into = None if few else Buckets.of(layer, build, routing.expert)
    output, weight = dispatched(layer, build, hidden, routing, into)
    scaled = layer.op("Mul", layer.cast(output, "float32"), layer.op("Unsqueeze", weight, layer.constant([-1])))
    scaled.name = "output"
    return session_of(layer, [hidden, *routing], [scaled])


def run(session: onnxruntime.InferenceSession, hidden: np.ndarray, expert: np.ndarray) -> np.ndarray:
    (got,) = session.run(
        None, {"hidden": hidden, "expert": expert, "probability": np.full(expert.shape, 0.5, np.float32)}
    )
    return got


@FEW_OR_MANY
@pytest.mark.parametrize("experts", [1, 5, 40])
@pytest.mark.parametrize("capacity", [None, 1, 2, 64])
def test_every_token_gets_its_expert_and_past_the_capacity_nothing(experts, capacity, few):
    architecture = sized(experts)
    weights = weights_of(architecture)
    session = dispatch(architecture, weights, few=few, capacity=capacity)
    for expert in choices(experts):
        hidden = np.random.default_rng(2).normal(size=(*expert.shape, 8)).astype(np.float32)
        wanted = 0.5 * in_a_loop(architecture, weights, hidden, expert) * within(expert, capacity)[..., None]
        ONE_EXPERT_LAYER.check(run(session, hidden, expert), wanted, f"{experts}, {expert.shape}")


@FEW_OR_MANY
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "silu"])
def test_every_activation(activation, gated, few):
    architecture = sized(5, gated=gated, activation=activation)
    weights, expert = weights_of(architecture), np.random.default_rng(3).integers(0, 5, (2, 9))
    hidden = np.random.default_rng(4).normal(size=(2, 9, 8)).astype(np.float32)
    got = run(dispatch(architecture, weights, few=few), hidden, expert)
    ONE_EXPERT_LAYER.check(got, 0.5 * in_a_loop(architecture, weights, hidden, expert))


@FEW_OR_MANY
def test_float16_keeps_the_output_in_range(few):
    """The output of `wo` leaves float16 here; scaled before, it does not, and the caller undoes the scale."""
    architecture, scale = sized(5), Precision.of("float16").wo_scale
    weights = {name: (array * 40).astype(np.float16) for name, array in weights_of(architecture).items()}
    expert = np.array([[0, 3, 3]])
    hidden = 40 * np.random.default_rng(4).normal(size=(1, 3, 8)).astype(np.float16)
    wanted = 0.5 * in_a_loop(architecture, weights, hidden.astype(np.float64), expert)
    assert np.abs(wanted).max() > np.finfo(np.float16).max
    got = run(dispatch(architecture, weights, "float16", few=few), hidden, expert)
    FLOAT16_LOGITS.check(got.astype(np.float64) / scale, wanted)


def test_experts_that_no_token_chose_are_not_read_when_they_are_fetched():
    """Weights of the others are NaN, which any product would show."""
    architecture, hit = sized(5), 2
    weights = weights_of(architecture)
    spoilt = {name: array if f"_{hit}." in name else np.full_like(array, np.nan) for name, array in weights.items()}
    hidden, expert = np.ones((1, 3, 8), np.float32), np.full((1, 3), hit)
    got = run(dispatch(architecture, spoilt, few=True), hidden, expert)
    ONE_EXPERT_LAYER.check(got, 0.5 * in_a_loop(architecture, weights, hidden, expert))

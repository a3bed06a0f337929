"""One branch per expert, in groups: the same numbers as a loop over tokens, whatever the number of experts."""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from dispatches import (
    ELEMENTS,
    build_of,
    choices,
    graph_of,
    in_a_loop,
    place,
    session_of,
    sized,
    value,
    weights_of,
    within,
)
from pointsman.bundle import Architecture
from pointsman_export.graphs.branches import FAN_OUT, dispatched
from pointsman_export.graphs.experts import Routing
from pointsman_export.network import Precision
from tolerances import FLOAT16_LOGITS, ONE_EXPERT_LAYER

EXPERTS = (1, 5, 8, 9, 40, 300)


def dispatch(
    architecture: Architecture, weights: dict[str, np.ndarray], dtype: str = "float32", capacity: int | None = None
):
    """A graph of one dispatch: the layer's place, inputs, and outputs."""
    layer, axes = place(weights, dtype), ("batch", "tokens")
    hidden = value("hidden", ELEMENTS[dtype], *axes, architecture.d_model)
    routing = Routing(value("expert", ir.DataType.INT64, *axes), value("probability", ir.DataType.FLOAT, *axes))
    output, weight = dispatched(layer, build_of(architecture, "fused", dtype, capacity), hidden, routing)
    output.name = "output"
    if weight is not routing.probability:
        weight.name = "weight"
    return layer, [hidden, *routing], [output, weight][: 1 if capacity is None else 2]


def branches(*arguments, **options) -> onnxruntime.InferenceSession:
    return session_of(*dispatch(*arguments, **options))


def fed(hidden: np.ndarray, expert: np.ndarray) -> dict[str, np.ndarray]:
    return {"hidden": hidden, "expert": expert, "probability": np.ones(expert.shape, np.float32)}


@pytest.mark.parametrize("experts", EXPERTS)
def test_every_token_gets_its_expert(experts):
    architecture = sized(experts)
    weights = weights_of(architecture)
    session = branches(architecture, weights)
    for expert in (np.zeros((1, 0), np.int64), *choices(experts)):
        hidden = np.random.default_rng(2).normal(size=(*expert.shape, 8)).astype(np.float32)
        (got,) = session.run(["output"], fed(hidden, expert))
        ONE_EXPERT_LAYER.check(got, in_a_loop(architecture, weights, hidden, expert), f"{experts}, {expert.shape}")


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "silu"])
def test_every_activation(activation, gated):
    architecture = sized(5, gated=gated, activation=activation)
    weights, expert = weights_of(architecture), np.random.default_rng(3).integers(0, 5, (2, 9))
    hidden = np.random.default_rng(4).normal(size=(2, 9, 8)).astype(np.float32)
    (got,) = branches(architecture, weights).run(["output"], fed(hidden, expert))
    ONE_EXPERT_LAYER.check(got, in_a_loop(architecture, weights, hidden, expert))


@pytest.mark.parametrize("gated", [False, True])
def test_float16_keeps_the_output_in_range(gated):
    """The output of `wo` leaves float16 here; scaled before, it does not, and the caller undoes the scale."""
    architecture, precision = sized(5, gated=gated), Precision.of("float16")
    weights, expert = weights_of(architecture), np.array([[0, 3, 3]])
    weights = {
        name: (array * (20 if gated else 40)).astype(np.float16).astype(np.float32) for name, array in weights.items()
    }
    hidden = np.random.default_rng(4).normal(size=(1, 3, 8)).astype(np.float16)
    hidden *= np.float16(1 if gated else 40)
    (got,) = branches(architecture, weights, "float16").run(["output"], fed(hidden, expert))
    wanted = in_a_loop(architecture, weights, hidden.astype(np.float64), expert)
    assert np.abs(wanted).max() > np.finfo(np.float16).max
    FLOAT16_LOGITS.check(got.astype(np.float64) / precision.wo_scale, wanted)


@pytest.mark.parametrize("experts", EXPERTS)
def test_experts_that_no_token_chose_are_not_run(experts):
    """Weights of the others are NaN, which any product would show."""
    architecture, hit = sized(experts), experts // 2
    weights = weights_of(architecture)
    spoilt = {
        name: array if f".expert_{hit}." in name else np.full_like(array, np.nan) for name, array in weights.items()
    }
    hidden, expert = np.ones((1, 3, 8), np.float32), np.full((1, 3), hit)
    (got,) = branches(architecture, spoilt).run(["output"], fed(hidden, expert))
    ONE_EXPERT_LAYER.check(got, in_a_loop(architecture, weights, hidden, expert))


def widths(graph: ir.Graph, depth: int = 1) -> Iterator[tuple[int, int]]:
    """Of every graph that asks, how deep it lies and how many questions it asks."""
    ifs = [node for node in graph if node.op_type == "If"]
    if ifs:
        yield depth, len(ifs)
    for node in ifs:
        yield from widths(node.attributes["then_branch"].as_graph(), depth + 1)


@pytest.mark.parametrize(("experts", "first", "depth"), [(1, 1, 1), (8, 8, 1), (9, 2, 2), (40, 5, 2), (300, 5, 3)])
def test_many_experts_are_asked_for_in_groups(experts, first, depth):
    found = list(widths(graph_of(*dispatch(sized(experts), weights_of(sized(experts))))))
    assert found[0] == (1, first)
    assert max(level for level, _ in found) == depth
    assert max(count for _, count in found) <= FAN_OUT


@pytest.mark.parametrize("capacity", [1, 2, 64])
@pytest.mark.parametrize("experts", [1, 5, 17])
@pytest.mark.parametrize("tokens", [0, 1, 2, 9, 80])
def test_tokens_past_the_capacity_weigh_nothing(experts, capacity, tokens):
    architecture = sized(experts)
    rng = np.random.default_rng(5)
    expert = rng.integers(0, experts, (3, tokens))
    probability = rng.uniform(0.1, 1, expert.shape).astype(np.float32)
    session = branches(architecture, weights_of(architecture), capacity=capacity)
    feeds = fed(np.zeros((*expert.shape, 8), np.float32), expert) | {"probability": probability}
    (got,) = session.run(["weight"], feeds)
    np.testing.assert_array_equal(got, np.where(within(expert, capacity), probability, 0))

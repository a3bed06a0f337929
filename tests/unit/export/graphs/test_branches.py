"""One branch per expert, in groups: the same numbers as a loop over tokens, whatever the number of experts."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from checkpoints import CHECKPOINTS
from parity.numpy_reference import feed_forward
from pointsman.bundle import Architecture
from pointsman_export.graphs.branches import FAN_OUT, ExpertBranches, drop_overflow
from pointsman_export.network import Precision, input_names
from tolerances import FLOAT16_LOGITS, ONE_EXPERT_LAYER

LAYER = "encoder.block.1.layer.1.mlp"
EXPERTS = (1, 5, 16, 17, 40, 300)


def sized(experts: int, *, gated: bool = False, activation: str = "relu") -> Architecture:
    return replace(
        CHECKPOINTS["tied"].architecture,
        d_model=8,
        d_ff=6,
        num_experts=experts,
        gated=gated,
        activation=activation,
    )


def weights_of(architecture: Architecture, seed: int = 0) -> dict[str, np.ndarray]:
    """By initializer name, `[in, out]`."""
    rng, sizes = np.random.default_rng(seed), (architecture.d_model, architecture.d_ff)
    shapes = dict.fromkeys(input_names(architecture), sizes) | {"wo": sizes[::-1]}
    return {
        f"{LAYER}.experts.expert_{expert}.{name}.weight": rng.normal(size=shape).astype(np.float32)
        for expert in range(architecture.num_experts)
        for name, shape in shapes.items()
    }


def value(name: str, dtype: ir.DataType, *axes: int | str) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(axes), type=ir.TensorType(dtype))


def named(graph: ir.Graph) -> ir.Graph:
    """Names that differ across branches; in exported graphs they come from nodes."""
    kept = {id(output) for output in graph.outputs}
    for number, node in enumerate(ir.traversal.RecursiveGraphIterator(graph)):
        node.name = f"node_{number}"
        for index, output in enumerate(node.outputs):
            if id(output) not in kept:
                output.name = f"value_{number}_{index}"
    return graph


def session_of(graph: ir.Graph) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = ir.Model(named(graph), ir_version=10)
    data = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def branches(architecture: Architecture, weights: dict[str, np.ndarray], dtype: str = "float32") -> ir.Graph:
    """A graph of one dispatch."""
    precision, element = Precision.of(dtype), {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16}[dtype]
    initializers = {
        name: ir.Value(
            name=name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(element),
            const_value=ir.tensor(array.astype(dtype), name=name),
        )
        for name, array in weights.items()
    }
    hidden = value("hidden", element, "batch", "tokens", architecture.d_model)
    expert = value("expert", ir.DataType.INT64, "batch", "tokens")
    nodes, result = ExpertBranches(architecture, precision, initializers.__getitem__).expand(hidden, expert, LAYER)
    result.name, result.shape, result.type = "output", hidden.shape, hidden.type
    return ir.Graph(
        [hidden, expert], [result], nodes=nodes, initializers=initializers.values(), opset_imports={"": 23}, name="test"
    )


def in_a_loop(architecture: Architecture, weights: dict, hidden: np.ndarray, expert: np.ndarray) -> np.ndarray:
    output = np.zeros(hidden.shape)
    for place in np.ndindex(expert.shape):
        prefix = f"{LAYER}.experts.expert_{expert[place]}"
        inputs = [weights[f"{prefix}.{name}.weight"].T.astype(np.float64) for name in input_names(architecture)]
        wo = weights[f"{prefix}.wo.weight"].T.astype(np.float64)
        output[place] = feed_forward(hidden[place][None], inputs, wo, architecture.activation)[0]
    return output


def choices(experts: int) -> Iterator[np.ndarray]:
    """Experts `[batch, tokens]`: no token, one, all to one expert, all experts in falling order, any."""
    rng, last = np.random.default_rng(1), experts - 1
    yield np.zeros((1, 0), np.int64)
    yield np.array([[0]])
    yield np.array([[last]])
    yield np.full((2, 7), last // 2)
    yield np.arange(experts)[::-1].reshape(1, -1)
    yield rng.integers(0, experts, (3, 11))


@pytest.mark.parametrize("experts", EXPERTS)
def test_every_token_gets_its_expert(experts):
    architecture = sized(experts)
    weights = weights_of(architecture)
    session = session_of(branches(architecture, weights))
    for expert in choices(experts):
        hidden = np.random.default_rng(2).normal(size=(*expert.shape, 8)).astype(np.float32)
        (got,) = session.run(None, {"hidden": hidden, "expert": expert})
        ONE_EXPERT_LAYER.check(got, in_a_loop(architecture, weights, hidden, expert), f"{experts}, {expert.shape}")


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "silu"])
def test_every_activation(activation, gated):
    architecture = sized(5, gated=gated, activation=activation)
    weights, expert = weights_of(architecture), np.random.default_rng(3).integers(0, 5, (2, 9))
    hidden = np.random.default_rng(4).normal(size=(2, 9, 8)).astype(np.float32)
    (got,) = session_of(branches(architecture, weights)).run(None, {"hidden": hidden, "expert": expert})
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
    (got,) = session_of(branches(architecture, weights, "float16")).run(None, {"hidden": hidden, "expert": expert})
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
    (got,) = session_of(branches(architecture, spoilt)).run(None, {"hidden": hidden, "expert": expert})
    ONE_EXPERT_LAYER.check(got, in_a_loop(architecture, weights, hidden, expert))


def widths(graph: ir.Graph, depth: int = 1) -> Iterator[tuple[int, int]]:
    """Of every graph that asks, how deep it lies and how many questions it asks."""
    ifs = [node for node in graph if node.op_type == "If"]
    if ifs:
        yield depth, len(ifs)
    for node in ifs:
        yield from widths(node.attributes["then_branch"].as_graph(), depth + 1)


@pytest.mark.parametrize(("experts", "first", "depth"), [(1, 1, 1), (16, 16, 1), (17, 2, 2), (40, 3, 2), (300, 2, 3)])
def test_many_experts_are_asked_for_in_groups(experts, first, depth):
    found = list(widths(branches(sized(experts), weights_of(sized(experts)))))
    assert found[0] == (1, first)
    assert max(level for level, _ in found) == depth
    assert max(count for _, count in found) <= FAN_OUT


@pytest.mark.parametrize("capacity", [1, 2, 64])
@pytest.mark.parametrize("experts", [1, 5, 17])
@pytest.mark.parametrize("tokens", [0, 1, 2, 9, 80])
def test_tokens_past_the_capacity_weigh_nothing(experts, capacity, tokens):
    rng = np.random.default_rng(5)
    expert = rng.integers(0, experts, (3, tokens))
    probability = rng.uniform(0.1, 1, expert.shape).astype(np.float32)
    inputs = [value("expert", ir.DataType.INT64, "b", "t"), value("probability", ir.DataType.FLOAT, "b", "t")]
    nodes, result = drop_overflow(*inputs, experts, capacity, LAYER)
    result.name, result.shape, result.type = "weight", inputs[1].shape, inputs[1].type
    session = session_of(ir.Graph(inputs, [result], nodes=nodes, opset_imports={"": 23}, name="test"))
    (got,) = session.run(None, {"expert": expert, "probability": probability})
    wanted = probability.copy()
    for row in range(3):
        for token in range(tokens):
            if (expert[row, :token] == expert[row, token]).sum() >= capacity:
                wanted[row, token] = 0
    np.testing.assert_array_equal(got, wanted)

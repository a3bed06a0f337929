"""Graphs of one expert dispatch alone, and the loop that they are compared with."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime

from checkpoints import CHECKPOINTS
from parity.numpy_reference import feed_forward
from pointsman.bundle import Architecture, names
from pointsman_export.checkpoint import NUMPY_DTYPES
from pointsman_export.graphs.scope import OPSET, Scope, new_graph
from pointsman_export.network import Build, Precision
from pointsman_export.network.build import input_names

LAYER = names.sparse_layer("encoder", 1)
ELEMENTS = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16}


def sized(experts: int, *, gated: bool = False, activation: str = "relu") -> Architecture:
    return replace(
        CHECKPOINTS["tied"].architecture, d_model=8, d_ff=6, num_experts=experts, gated=gated, activation=activation
    )


def build_of(architecture: Architecture, form: str, dtype: str = "float32", capacity: int | None = None) -> Build:
    return Build(architecture, form, Precision.of(dtype), capacity)


def weights_of(architecture: Architecture, seed: int = 0) -> dict[str, np.ndarray]:
    """By initializer name, `[in, out]`."""
    rng, sizes = np.random.default_rng(seed), (architecture.d_model, architecture.d_ff)
    shapes = dict.fromkeys(input_names(architecture), sizes) | {"wo": sizes[::-1]}
    return {
        names.expert_weight(LAYER, expert, name): rng.normal(size=shape).astype(np.float32)
        for expert in range(architecture.num_experts)
        for name, shape in shapes.items()
    }


def stacked(architecture: Architecture, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same as the portable form has them."""
    return {
        names.stacked_experts(LAYER, name): np.stack(
            [weights[names.expert_weight(LAYER, expert, name)] for expert in range(architecture.num_experts)]
        )
        for name in (*input_names(architecture), "wo")
    }


def place(weights: dict[str, np.ndarray], dtype: str = "float32") -> Scope:
    """The sparse layer in a new graph."""
    arrays = {name: array.astype(NUMPY_DTYPES[dtype]) for name, array in weights.items()}
    return new_graph({name: ir.tensor(array, name=name) for name, array in arrays.items()}).at(LAYER)


def value(name: str, dtype: ir.DataType, *axes: int | str) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(axes), type=ir.TensorType(dtype))


def session_of(scope: Scope, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = ir.Model(graph_of(scope, inputs, outputs), ir_version=10)
    data = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def graph_of(scope: Scope, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> ir.Graph:
    initializers = list(scope.construction.initializers.values())
    return ir.Graph(
        inputs, outputs, nodes=scope.nodes, initializers=initializers, opset_imports={"": OPSET}, name="test"
    )


def in_a_loop(architecture: Architecture, weights: dict, hidden: np.ndarray, expert: np.ndarray) -> np.ndarray:
    output = np.zeros(hidden.shape)
    for token in np.ndindex(expert.shape):
        inputs, wo = (
            [weights[names.expert_weight(LAYER, int(expert[token]), name)].T.astype(np.float64) for name in projections]
            for projections in (input_names(architecture), ["wo"])
        )
        output[token] = feed_forward(hidden[token][None], inputs, wo[0], architecture.activation)[0]
    return output


def within(expert: np.ndarray, capacity: int | None) -> np.ndarray:
    """Which tokens are among the first `capacity` of their sequence that chose their expert."""
    kept = np.ones(expert.shape, bool)
    for row, token in np.ndindex(expert.shape):
        earlier = (expert[row, :token] == expert[row, token]).sum()
        kept[row, token] = capacity is None or earlier < capacity
    return kept


def choices(experts: int) -> Iterator[np.ndarray]:
    """Experts `[batch, tokens]`: one token, all to one expert, all experts in falling order, any."""
    rng, last = np.random.default_rng(1), experts - 1
    yield np.array([[0]])
    yield np.array([[last]])
    yield np.full((2, 7), last // 2)
    yield np.arange(experts)[::-1].reshape(1, -1)
    yield rng.integers(0, experts, (3, 11))

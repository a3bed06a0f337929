"""What an expert's branch makes for its output projection is what torch makes, whatever the activation."""

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch.nn import functional

from checkpoints import CHECKPOINTS
from pointsman.bundle import Activation, names
from pointsman_calib.graphs.pieces import GraphPieces
from pointsman_export.graphs.branches import ExpertBranches
from pointsman_export.network import Precision, input_names
from tolerances import ONE_EXPERT_LAYER

LAYER = names.sparse_layer("encoder", 1)
TORCH: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
}


def test_all_activations_are_here():
    assert TORCH.keys() == set(get_args(Activation))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("experts", [3, 40])  # of 40, branches lie in branches
@pytest.mark.parametrize("activation", TORCH)
def test_the_inputs_of_an_output_projection(tmp_path, activation, experts, gated):
    architecture = replace(
        CHECKPOINTS["tied"].architecture, d_model=8, d_ff=6, num_experts=experts, gated=gated, activation=activation
    )
    drawn = np.random.default_rng(0)
    shapes = dict.fromkeys(input_names(architecture), (8, 6)) | {names.OUTPUT_PROJECTION: (6, 8)}
    weights = {
        names.expert_weight(LAYER, expert, projection): drawn.normal(size=shape).astype(np.float32)
        for expert in range(experts)
        for projection, shape in shapes.items()
    }
    pieces = GraphPieces(written(tmp_path / "encoder.onnx", architecture, weights), 0)
    rows = drawn.normal(size=(5, 8)).astype(np.float32)
    for expert in (0, experts - 1):
        piece = pieces.load_inner(names.expert_weight(LAYER, expert, names.OUTPUT_PROJECTION))
        (inner,) = piece.run(dict.fromkeys(piece.inputs, rows)).values()
        first, *gates = (
            torch.from_numpy(rows @ weights[names.expert_weight(LAYER, expert, projection)])
            for projection in input_names(architecture)
        )
        expected = TORCH[activation](first)
        for gate in gates:
            expected = expected * gate
        ONE_EXPERT_LAYER.check(inner, expected.numpy(), activation)


def written(path, architecture, weights):
    """A graph of one dispatch, its weights in external data."""
    floats = ir.TensorType(ir.DataType.FLOAT)
    initializers = {
        name: ir.Value(name=name, shape=ir.Shape(array.shape), type=floats, const_value=ir.tensor(array, name=name))
        for name, array in weights.items()
    }
    hidden = ir.Value(name="hidden", shape=ir.Shape(["batch", "tokens", 8]), type=floats)
    expert = ir.Value(name="expert", shape=ir.Shape(["batch", "tokens"]), type=ir.TensorType(ir.DataType.INT64))
    branches = ExpertBranches(architecture, Precision.of("float32"), initializers.__getitem__)
    nodes, output = branches.expand(hidden, expert, LAYER)
    output.name, output.type = "output", floats
    graph = ir.Graph(
        [hidden, expert], [output], nodes=nodes, initializers=initializers.values(), opset_imports={"": 23}, name="one"
    )
    for number, node in enumerate(ir.traversal.RecursiveGraphIterator(graph)):
        node.name = f"node_{number}"
        for index, value in enumerate(node.outputs):
            value.name = value.name or f"value_{number}_{index}"
    ir.save(ir.Model(graph, ir_version=10), path, external_data="weights.bin")
    return path

"""What an expert's branch makes for its output projection is what torch makes, whatever the activation."""

from collections.abc import Callable
from typing import get_args

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch.nn import functional

from dispatches import LAYER, build_of, graph_of, place, sized, value, weights_of
from pointsman.bundle import Activation, names
from pointsman_calib.graphs.pieces import GraphPieces
from pointsman_export.graphs.branches import dispatched
from pointsman_export.graphs.experts import Routing
from pointsman_export.network.build import input_names
from tolerances import ONE_EXPERT_LAYER

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
    architecture = sized(experts, gated=gated, activation=activation)
    weights = weights_of(architecture)
    pieces = GraphPieces(written(tmp_path / "encoder.onnx", architecture, weights), 0)
    rows = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
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
    layer, axes = place(weights), ("batch", "tokens")
    hidden = value("hidden", ir.DataType.FLOAT, *axes, architecture.d_model)
    routing = Routing(value("expert", ir.DataType.INT64, *axes), value("probability", ir.DataType.FLOAT, *axes))
    output, _ = dispatched(layer, build_of(architecture, "fused"), hidden, routing)
    output.name, output.type = "output", ir.TensorType(ir.DataType.FLOAT)
    model = ir.Model(graph_of(layer, [hidden, routing.expert], [output]), ir_version=10)
    ir.save(model, path, external_data=names.WEIGHTS)
    return path

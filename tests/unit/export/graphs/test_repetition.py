"""A graph whose blocks were repeated is the graph that tracing all blocks gives."""

import re

import onnx_ir as ir
import pytest

from checkpoints import CHECKPOINTS
from pointsman.bundle import Stack
from pointsman_export.graphs import repetition
from pointsman_export.graphs.repetition import traced_blocks
from pointsman_export.graphs.trace import decoder_graph, encoder_graph
from pointsman_export.network import Build, Precision

GRAPHS = {"encoder": encoder_graph, "decoder": decoder_graph}
# Which of the caches tells how long they are is the tracer's choice.
ANY_CACHE = re.compile(r"(?<=\bpast_)(key|value)\.\d+")


class AnyTensor(dict):
    """Weights of no size under every name: the graphs are compared, not run."""

    def __missing__(self, name):
        return ir.tensor([0.0], name=name)


def graph(role, form, architecture) -> ir.Graph:
    build = Build(architecture, form, Precision.of("float32"), architecture.expert_capacity)
    return GRAPHS[role](build, AnyTensor()).graph


def described(graph) -> dict[str, list[str]]:
    nodes = [str(ir.to_proto(node)) for node in graph]
    return {
        "nodes": [ANY_CACHE.sub("any", node) if 'op_type: "Shape"' in node else node for node in nodes],
        "inputs": [str(ir.to_proto(value)) for value in graph.inputs],
        "outputs": [str(ir.to_proto(value)) for value in graph.outputs],
        "initializers": sorted(str(value.const_value) for value in graph.initializers.values()),
    }


@pytest.mark.parametrize("form", ["fused", "portable"])
@pytest.mark.parametrize("role", GRAPHS)
@pytest.mark.parametrize("name", ["every-third", pytest.param("all-sparse", marks=pytest.mark.slow)])
def test_repeating_gives_what_tracing_all_blocks_gives(name, role, form, monkeypatch):
    architecture = CHECKPOINTS[name].architecture
    repeated = described(graph(role, form, architecture))
    monkeypatch.setattr(repetition, "MOST_OF_A_KIND", architecture.encoder.layers)
    traced = described(graph(role, form, architecture))
    for part, found in repeated.items():
        assert found == traced[part], part


@pytest.mark.parametrize(
    ("layers", "sparse", "traced"),
    [
        (12, (1, 3, 5, 7, 9, 11), (0, 1, 2, 3)),
        (15, tuple(range(15)), (0, 1)),
        (6, (1, 4), (0, 1, 2, 4)),
        (5, (), (0, 1)),
        (4, (3,), (0, 1, 3)),
        (1, (0,), (0,)),
    ],
)
def test_two_blocks_of_each_kind_are_traced(layers, sparse, traced):
    assert traced_blocks(Stack(layers=layers, sparse_layers=sparse)) == traced

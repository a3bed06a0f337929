"""Portable decoders gather experts a token at a time; that they compute the same is `test_runs.py`'s."""

import onnx_ir as ir
import pytest

from pointsman.bundle import names
from pointsman_calib.graphs.scan import gather_by_token


def gathers(graph):
    """Nodes that gather weights of experts for all tokens at once."""
    weights = [value for name, value in graph.initializers.items() if names.experts_layer(name)]
    return [use.node for value in weights for use in value.uses() if use.node.op_type == "Gather"]


@pytest.mark.parametrize(("name", "projections"), [("capacity-2", ["wi", "wo"]), ("gated", ["wi_0", "wi_1", "wo"])])
def test_every_product_with_gathered_weights_becomes_a_scan(exports, name, projections):
    export = exports(name, "portable")
    graph = ir.load(export.graph("decoder")).graph
    gathered = len(gathers(graph))
    assert gathered == len(projections) * len(export.spec.architecture.decoder.sparse_layers)
    products = sum(node.op_type == "MatMul" for node in graph)
    gather_by_token(graph)
    scans = [node for node in graph if node.op_type == "Scan"]
    assert len(scans) == gathered
    assert all(node.graph is not graph for node in gathers(graph))
    assert sum(node.op_type == "MatMul" for node in graph) == products - gathered


@pytest.mark.parametrize("form", ["fused", "portable"])
def test_nothing_else_changes(exports, form):
    graph = ir.load(exports("tied", form).graph("encoder")).graph
    before = [node.name for node in graph]
    gather_by_token(graph)
    assert [node.name for node in graph] == before

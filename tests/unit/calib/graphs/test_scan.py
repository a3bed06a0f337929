"""Portable decoders fetch experts a token at a time; that they compute the same is `test_piecewise.py`'s."""

import onnx_ir as ir
import pytest

from pointsman_calib.graphs.scan import fetch_by_token


def fetches(graph):
    """Nodes that fetch weights of experts for all tokens at once."""
    weights = [value for value in graph.initializers.values() if ".experts." in value.name]
    return [use.node for value in weights for use in value.uses() if use.node.op_type == "Gather"]


@pytest.mark.parametrize(("name", "projections"), [("capacity-2", ["wi", "wo"]), ("gated", ["wi_0", "wi_1", "wo"])])
def test_every_product_with_fetched_weights_becomes_a_scan(exports, name, projections):
    export = exports(name, "portable")
    graph = ir.load(export.graph("decoder")).graph
    fetched = len(fetches(graph))
    assert fetched == len(projections) * len(export.spec.architecture.decoder.sparse_layers)
    products = sum(node.op_type == "MatMul" for node in graph)
    fetch_by_token(graph)
    scans = [node for node in graph if node.op_type == "Scan"]
    assert len(scans) == fetched
    assert all(node.graph is not graph for node in fetches(graph))
    assert sum(node.op_type == "MatMul" for node in graph) == products - fetched


@pytest.mark.parametrize("form", ["fused", "portable"])
def test_nothing_else_changes(exports, form):
    graph = ir.load(exports("capacity-2", form).graph("encoder")).graph
    before = [node.name for node in graph]
    fetch_by_token(graph)
    assert [node.name for node in graph] == before

"""What is added to a graph: counts of values that are not finite, taken before a clamp hides them."""

import numpy as np
import onnx_ir as ir
import pytest

from pointsman.bundle import Graph, Stack, TensorSpec, names
from pointsman.errors import BundleError
from pointsman_calib.comparison.measuring.probes import Probes, Seen, count_clamped, rows_of_tokens
from pointsman_calib.comparison.records import NonFinite
from pointsman_calib.corpus.batches import Batch
from pointsman_calib.graphs.pieces import GraphPieces


def value(name, dtype, shape):
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def saved(path, inputs, outputs, nodes):
    graph = ir.Graph([inputs], outputs, nodes=nodes, opset_imports={"": 23}, name="graph")
    ir.save(ir.Model(graph, ir_version=10), path)
    return path


@pytest.fixture
def clamping(tmp_path):
    """y = Clip(log(x), 0, 1): NaN where x is negative, infinity where it is zero; and positions that are clipped."""
    x = value("x", ir.DataType.FLOAT, ["n"])
    log = ir.node("Log", [x])
    least, most = (ir.node("Constant", [], {"value": ir.tensor(np.float32(bound))}) for bound in (0, 1))
    clip = ir.node("Clip", [log.outputs[0], least.outputs[0], most.outputs[0]])
    whole = ir.node("Cast", [x], {"to": ir.DataType.INT64})
    whole_clip = ir.node("Clip", [whole.outputs[0]])
    for node, name in ((log, "log"), (clip, "y"), (whole, "whole"), (whole_clip, "z")):
        node.outputs[0].name, node.outputs[0].shape = name, ir.Shape(["n"])
        node.outputs[0].dtype = ir.DataType.INT64 if node in (whole, whole_clip) else ir.DataType.FLOAT
    nodes = [log, least, most, clip, whole, whole_clip]
    return saved(tmp_path / "graph.onnx", x, [clip.outputs[0], whole_clip.outputs[0]], nodes)


@pytest.fixture
def quantizing(tmp_path):
    """y = quantized log(x), of whose logarithm the graph does not say the type, as rewritten graphs may not."""
    x = value("x", ir.DataType.FLOAT, ["n"])
    log = ir.node("Log", [x])
    scale, zero = (ir.node("Constant", [], {"value": ir.tensor(number)}) for number in (np.float32(0.1), np.int8(0)))
    codes = ir.node("QuantizeLinear", [log.outputs[0], scale.outputs[0], zero.outputs[0]])
    back = ir.node("DequantizeLinear", [codes.outputs[0], scale.outputs[0], zero.outputs[0]])
    log.outputs[0].name, back.outputs[0].name = "log", "y"
    back.outputs[0].dtype, back.outputs[0].shape = ir.DataType.FLOAT, ir.Shape(["n"])
    return saved(tmp_path / "graph.onnx", x, back.outputs, [log, scale, zero, codes, back])


def run(path, x):
    """What the graph makes of x, and the tensors whose values were counted, with the counts."""
    pieces = GraphPieces(path, 0)
    counts = count_clamped(pieces)
    given = pieces.load(0, ["y", *counts]).run({"x": np.array(x, np.float32)})
    return given["y"], {tensor: int(given[count]) for count, tensor in counts.items()}


def test_values_are_counted_before_a_clamp_hides_them(clamping):
    y, counts = run(clamping, [0.5, 0.0, 1.0, np.inf])
    assert np.isfinite(y).all()
    assert counts == {"log": 2}


def test_values_are_counted_before_they_are_quantized(quantizing):
    y, counts = run(quantizing, [0.5, 0.0, -1.0, np.inf])
    assert np.isfinite(y).all()
    assert counts == {"log": 3}


def test_finite_values_count_for_nothing(clamping):
    assert run(clamping, [0.5, 2.0])[1] == {"log": 0}


def test_values_that_are_not_finite_are_found_where_they_are():
    logits = np.array([[1.0, np.nan], [np.inf, 0.0]])
    seen = Seen({"log": 3, "exp": 0}, {"encoder.block.0": np.ones(2)}, {}, {"logits": logits})
    assert list(seen.non_finite()) == [NonFinite(name="log", values=3), NonFinite(name="logits", values=2)]
    assert list(Seen({"log": 0}, {}, {}, {"logits": np.zeros((1, 2))}).non_finite()) == []


def test_rows_of_tokens():
    """The rows of padding are left out, wherever the axes of batch and tokens are."""
    mask = np.array([[True, True, False], [True, False, False]])
    keys = np.arange(2 * 4 * 5 * 3).reshape(2, 4, 5, 3)  # [batch, heads, d_kv, source]
    rows = rows_of_tokens(keys, ("batch", 4, 5, "source"), mask)
    np.testing.assert_array_equal(rows, [keys[0, :, :, 0], keys[0, :, :, 1], keys[1, :, :, 0]])
    logits = np.arange(2 * 3 * 7).reshape(2, 3, 7)
    np.testing.assert_array_equal(rows_of_tokens(logits, ("rows", "positions", 7), mask), logits[mask])


def test_a_part_of_what_is_looked_at(clamping):
    """A piece that gives only some of the values leaves the others out."""
    logits = TensorSpec(name=names.LOGITS, dtype="float32", axes=("rows", "positions", 2))
    graph = Graph(file="graph.onnx", inputs=(), outputs=(logits,))
    probes = Probes(GraphPieces(clamping, 0), graph, "decoder", Stack(layers=2, sparse_layers=(1,)))
    choice = names.expert_choice("decoder.block.1.layer.2.mlp")
    assert set(probes.values) == {"log.non_finite", "decoder.block.0", "decoder.block.1", choice, "logits"}
    ones = np.ones((1, 2), np.int64)
    batch = Batch(ones, ones, ones, ones, np.array([[True, False]]), np.array([[True, False]]), ones[0])
    seen = probes.read(batch, {choice: np.array([[5, 6]]), "decoder.block.1": np.array([[[1.0], [2.0]]])})
    assert (seen.clamped, seen.outputs) == ({}, {})
    assert [*seen.experts] == [*seen.streams] == ["decoder.block.1"]
    assert (seen.experts["decoder.block.1"].tolist(), seen.streams["decoder.block.1"].tolist()) == ([5], [[1.0]])


def test_a_graph_that_lacks_something(clamping):
    with pytest.raises(BundleError, match=r"graph\.onnx does not compute decoder\.block\.7; export the bundle again"):
        GraphPieces(clamping, 0).piece_of("decoder.block.7")

"""What is added to a graph: its streams, its routers' choices, and counts taken before a clamp hides anything."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from pointsman.errors import BundleError
from pointsman_calib.comparison.exposure import Exposure, exposed


def value(name, dtype, shape):
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


@pytest.fixture
def clamping(tmp_path):
    """y = Clip(log(x), 0, 1) after a stream s = x + x: NaN where x is negative, infinity where it is zero."""
    x = value("x", ir.DataType.FLOAT, ["n"])
    stream = ir.node("Add", [x, x])
    log = ir.node("Log", [x])
    least, most = (ir.node("Constant", [], {"value": ir.tensor(np.float32(bound))}) for bound in (0, 1))
    clip = ir.node("Clip", [log.outputs[0], least.outputs[0], most.outputs[0]])
    whole = ir.node("Cast", [x], {"to": ir.DataType.INT64})
    whole_clip = ir.node("Clip", [whole.outputs[0]])
    names = (stream, "encoder.block.0"), (log, "log"), (clip, "y"), (whole, "whole"), (whole_clip, "z")
    for node, name in names:
        node.outputs[0].name = name
    for node in (stream, log, clip):
        node.outputs[0].dtype = ir.DataType.FLOAT
    for node in (whole, whole_clip):
        node.outputs[0].dtype = ir.DataType.INT64
    nodes = [stream, log, least, most, clip, whole, whole_clip]
    outputs = [clip.outputs[0], whole_clip.outputs[0]]
    for output in outputs:
        output.shape = ir.Shape(["n"])
    graph = ir.Graph([x], outputs, nodes=nodes, opset_imports={"": 20}, name="clamping")
    path = tmp_path / "graph.onnx"
    ir.save(ir.Model(graph, ir_version=10), path)
    return path


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
    nodes = [log, scale, zero, codes, back]
    graph = ir.Graph([x], back.outputs, nodes=nodes, opset_imports={"": 20}, name="quantizing")
    path = tmp_path / "graph.onnx"
    ir.save(ir.Model(graph, ir_version=10), path)
    return path


def run(path, wanted, x):
    session = onnxruntime.InferenceSession(exposed(path, wanted), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"x": np.array(x, np.float32)}), strict=True))


def exposure(**changes):
    return Exposure(**{"outputs": ("y",), "streams": ("encoder.block.0",), "sparse": (), "layers": False} | changes)


def test_values_are_counted_before_a_clamp_hides_them(clamping):
    given = run(clamping, exposure(), [0.5, 0.0, 1.0, np.inf])
    assert np.isfinite(given["y"]).all()
    assert given["log.non_finite"] == 2
    assert given["encoder.block.0.non_finite"] == 1


def test_values_are_counted_before_they_are_quantized(quantizing):
    given = run(quantizing, exposure(streams=()), [0.5, 0.0, -1.0, np.inf])
    assert np.isfinite(given["y"]).all()
    assert given["log.non_finite"] == 3


def test_finite_values_count_for_nothing(clamping):
    given = run(clamping, exposure(), [0.5, 2.0])
    assert (given["log.non_finite"], given["encoder.block.0.non_finite"]) == (0, 0)


def test_only_what_is_wanted_is_given(clamping):
    assert list(run(clamping, exposure(), [1.0])) == ["encoder.block.0.non_finite", "log.non_finite", "y"]
    first, *_ = run(clamping, exposure(layers=True), [1.0])
    assert first == "encoder.block.0"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"outputs": ("logits",)}, "does not compute logits"),
        ({"streams": ("encoder.block.7",)}, r"does not compute encoder\.block\.7"),
        ({"sparse": ("encoder.block.0",)}, r"has no router in encoder\.block\.0"),
    ],
)
def test_a_graph_that_lacks_something(clamping, changes, what):
    with pytest.raises(BundleError, match=f"{what}; export the bundle again"):
        exposed(clamping, exposure(**changes))

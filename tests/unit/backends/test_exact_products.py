"""Products in two parts: what whole ones give, to the last bit, where a processor's own saturate too."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from pointsman.backends.onnxruntime.models.exact_products import PRODUCT, in_parts, shared_by_parts
from pointsman.backends.onnxruntime.models.graphs import operator
from pointsman.backends.onnxruntime.models.messages import field

DEPTH, COLUMNS = 70, 24
X_SCALE = np.float32(1 / 127)
MODEL_GRAPH = 7


@pytest.fixture(scope="module", params=[0, 128])
def product(request):
    """A product whose weight is an input, so that ONNX Runtime leaves it as it is."""
    node = helper.make_node(PRODUCT.decode(), ["x", "w", "x_scale", "w_scale", "zero"], ["y"], domain="com.microsoft")
    graph = helper.make_graph(
        [],
        "product",
        [
            helper.make_tensor_value_info("x", TensorProto.UINT8, ["rows", DEPTH]),
            helper.make_tensor_value_info("w", TensorProto.INT8, [DEPTH, COLUMNS]),
            helper.make_tensor_value_info("w_scale", TensorProto.FLOAT, [COLUMNS]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", COLUMNS])],
        [
            helper.make_tensor("x_scale", TensorProto.FLOAT, [], [X_SCALE]),
            helper.make_tensor("zero", TensorProto.UINT8, [], [request.param]),
        ],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    assert operator(node.SerializeToString()) == PRODUCT
    nodes, zero = in_parts(node.SerializeToString())
    model += field(MODEL_GRAPH, shared_by_parts([zero]) + nodes)
    onnx.checker.check_model(model)
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]), request.param


def check(product, x, weight):
    session, zero = product
    scales = np.linspace(1e-3, 2e-2, COLUMNS, dtype=np.float32)
    sums = (x.astype(np.int64) - zero) @ weight.astype(np.int64)
    (found,) = session.run(None, {"x": x, "w": weight, "w_scale": scales})
    np.testing.assert_array_equal(found, sums.astype(np.float32) * (X_SCALE * scales))


@pytest.mark.parametrize("rows", [1, 2, 7, 40])
@pytest.mark.parametrize("code", [127, 128, 255])
@pytest.mark.parametrize("weight", [127, -127, -128])
def test_the_largest_that_there_are(product, rows, code, weight):
    check(product, np.full((rows, DEPTH), code, np.uint8), np.full((DEPTH, COLUMNS), weight, np.int8))


@pytest.mark.parametrize("seed", range(6))
def test_any_bytes(product, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (int(rng.integers(1, 20)), DEPTH), dtype=np.uint8)
    check(product, x, rng.integers(-128, 128, (DEPTH, COLUMNS), dtype=np.int8))

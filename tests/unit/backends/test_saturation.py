"""Whether products of integers are exact here is found out by one that is as large as can be."""

import numpy as np
import onnx_ir as ir
import onnxruntime

from pointsman.backends.onnxruntime.weights import saturation
from pointsman.backends.onnxruntime.weights.saturation import make_exact, products_saturate


class Options:
    def __init__(self):
        self.entries = {}

    def add_session_config_entry(self, key, value):
        self.entries[key] = value


def test_the_graph_is_what_it_is_said_to_be():
    graph = ir.load(saturation._GRAPH).graph
    (product,) = graph
    assert (product.domain, product.op_type) == ("com.microsoft", "MatMulIntegerToFloat")
    weight, step, scales = (value.const_value.numpy() for value in product.inputs[1:])
    assert weight.dtype == np.int8
    assert weight.shape == (64, 16)
    assert (weight == 127).all()
    assert step == 1
    assert (scales == 1).all()


def test_exact_kernels_are_asked_for_where_they_are_needed(monkeypatch):
    for saturates in (True, False):
        monkeypatch.setattr(saturation, "products_saturate", lambda saturates=saturates: saturates)
        make_exact(options := Options())
        needed = {"session.x64quantprecision": "1", "session.disable_quant_qdq": "1"}
        assert options.entries == (needed if saturates else {})


def test_with_them_products_are_exact_on_this_processor():
    """Everywhere; without them, where nothing saturates."""
    options = onnxruntime.SessionOptions()
    make_exact(options)
    session = onnxruntime.InferenceSession(saturation._GRAPH, options, providers=["CPUExecutionProvider"])
    (sums,) = session.run(None, {"x": np.full((3, 64), 255, np.uint8)})
    assert (sums == 64 * 255 * 127).all()
    assert products_saturate() in (True, False)

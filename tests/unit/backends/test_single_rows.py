"""Rows of products with blocks of codes give the same alone and beside others, on every processor."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from pointsman.backends.onnxruntime.models.row_pairs import has_block_products, with_rows_in_company
from pointsman.backends.onnxruntime.weights import saturation, single_rows
from pointsman.backends.onnxruntime.weights.single_rows import rows_alone_differ

ROWS = 9


def multiply(model, x):
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(1).standard_normal((ROWS, 256), np.float32)


def test_the_graph_is_what_it_is_said_to_be():
    graph = ir.load(single_rows._GRAPH).graph
    (product,) = graph
    assert (product.domain, product.op_type) == ("com.microsoft", "MatMulNBits")
    attributes = {name: value.value for name, value in product.attributes.items()}
    assert attributes == {"K": 256, "N": 32, "bits": 4, "block_size": 32, "accuracy_level": 4}


def test_a_row_in_company_gives_what_it_gives_beside_others(x):
    model = single_rows._GRAPH.read_bytes()
    expected = multiply(model, x)
    changed = with_rows_in_company(model)
    for count in range(1, ROWS + 1):
        np.testing.assert_array_equal(multiply(changed, x[:count]), expected[:count])


def test_rows_of_many_matrices_have_company_too(x):
    """As in variants of earlier versions, whose dense products have blocks of codes too."""
    model = onnx.ModelProto.FromString(single_rows._GRAPH.read_bytes())
    for value, width in ((model.graph.input[0], 256), (model.graph.output[0], 32)):
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, ["many", "rows", width]))
    expected = multiply(single_rows._GRAPH.read_bytes(), x)
    changed = with_rows_in_company(model.SerializeToString())
    np.testing.assert_array_equal(multiply(changed, x[:, None]), expected[:, None])


def test_whether_that_is_needed_is_found_out(x):
    model = single_rows._GRAPH.read_bytes()
    alone = np.concatenate([multiply(model, row[None]) for row in x])
    assert rows_alone_differ() == bool((alone != multiply(model, x)).any())


def test_only_products_with_blocks_of_codes_are_looked_for():
    assert has_block_products(single_rows._GRAPH.read_bytes())
    assert not has_block_products(saturation._GRAPH.read_bytes())

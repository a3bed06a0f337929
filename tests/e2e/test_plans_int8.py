"""The demo model's `int8-qdq` graphs become TensorRT-RTX plans that hold INT8 codes, and no float copies of them."""

import numpy as np
import onnx_ir as ir
import pytest

from pointsman.bundle import ROLES, read_manifest
from pointsman_calib.quantization import RECIPES

RECIPE = RECIPES["int8-qdq"]


@pytest.fixture(scope="module")
def bundle(planned):
    """The demo bundle with the variant, and plans of both portable variants."""
    return planned / "build" / "demo"


def plan(bundle, variant, role):
    (record,) = (
        engine.file for engine in read_manifest(bundle).engines if (engine.variant, engine.role) == (variant, role)
    )
    return (bundle / record.path).read_bytes()


def weights(bundle, role):
    """Codes and scales of every weight of the variant's graph, scales of the codes' number of axes."""
    graph = ir.load(bundle / read_manifest(bundle).variants[RECIPE.name].graph_of_one_position(role).file).graph
    for node in graph:
        if node.op_type == "DequantizeLinear" and node.inputs[0].is_initializer():
            codes, scales = (value.const_value.numpy() for value in node.inputs[:2])
            axis = node.attributes["axis"].as_int()
            yield node.inputs[0].name, codes, scales if codes.ndim == 3 else np.expand_dims(scales, 1 - axis)


def lines(array):
    """Three rows and three columns of a matrix or of a stack's first and last, as bytes in some order of memory."""
    for matrix in (array[0], array[-1]) if array.ndim == 3 else (array,):
        for oriented in (matrix, matrix.T):
            yield [oriented[index].tobytes() for index in (0, len(oriented) // 2, -1)]


@pytest.mark.parametrize("role", ROLES)
def test_codes_are_in_the_plan_and_no_float_copies(bundle, role):
    built = plan(bundle, RECIPE.name, role)
    found = 0
    for name, codes, scales in weights(bundle, role):
        assert any(all(line in built for line in three) for three in lines(codes)), name
        for dtype in (np.float32, np.float16):
            floats = (codes * scales).astype(dtype)
            assert not any(line in built for three in lines(floats) for line in three), name
        found += codes.nbytes
    assert found > 5_000_000


def test_the_search_would_find_float_weights(bundle):
    built = plan(bundle, RECIPE.sources[0], "encoder")
    graph = ir.load(bundle / read_manifest(bundle).variants[RECIPE.sources[0]].encoder.file).graph
    floats = graph.initializers["shared.weight"].const_value.numpy()
    assert any(all(line in built for line in three) for three in lines(floats))


@pytest.mark.parametrize("role", ROLES)
def test_the_plan_is_smaller_by_most_of_what_int8_saves(bundle, role):
    saved = 3 * sum(codes.nbytes for _, codes, _ in weights(bundle, role))
    difference = len(plan(bundle, RECIPE.sources[0], role)) - len(plan(bundle, RECIPE.name, role))
    assert difference > saved / 2  # the rest are kernels: the plan has more of them

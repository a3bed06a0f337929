"""ONNX Runtime computes what the nodes over blocks of codes stand for."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from codes import dequantized

from pointsman_calib.rounding import BlockFormat, round_blocks
from pointsman_calib.schemes.weight_only.operators import DOMAIN, Expression, Operand

ROWS, INPUTS, OUT = 5, 192, 96


def value(name, dtype, array=None, shape=None):
    tensor = None if array is None else ir.tensor(array, name=name)
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape or array.shape), const_value=tensor)


def computed(kind: str, weight, form: BlockFormat, inputs):
    """The result of a product of `inputs` with `weight`, and the weight that its codes stand for."""
    quantized = round_blocks(weight, form)
    codes = value("codes", ir.DataType.UINT8, quantized.packed_codes())
    scales = value("scales", ir.DataType.FLOAT, quantized.scales)
    expression = Expression("product")
    fed = value("inputs", ir.DataType.FLOAT, shape=inputs.shape)
    operand = Operand(codes, scales, form, *weight.shape)
    result = {
        "product": lambda: expression.product(fed, operand),
        "fine_product": lambda: expression.fine_product(expression.parts(fed, operand), operand),
    }[kind]()
    graph = ir.Graph(
        [fed], [result], nodes=expression.nodes, initializers=[codes, scales], opset_imports={"": 23, DOMAIN: 1}
    )
    session = onnxruntime.InferenceSession(
        ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"inputs": inputs})[0], dequantized(quantized)


def error(kind, form, inputs):
    """The largest error of a product, as a part of its largest value."""
    weight = np.random.default_rng(1).standard_normal((INPUTS, OUT)).astype(np.float32)
    got, stands_for = computed(kind, weight, form, inputs)
    expected = inputs.astype(np.float64) @ stands_for
    assert got.shape == expected.shape
    return np.abs(got - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("shape", [(ROWS, INPUTS), (2, ROWS, INPUTS), (1, INPUTS)], ids=str)
@pytest.mark.parametrize(
    "form", [BlockFormat(bits=8, block_size=64), BlockFormat(bits=4, block_size=32)], ids=["int8", "int4"]
)
def test_two_parts_are_a_hundred_times_as_exact_as_one(form, shape):
    inputs = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    inputs[..., :64] *= 30  # blocks of other sizes
    assert 1e-4 < error("product", form, inputs) < 2e-2
    assert error("fine_product", form, inputs) < 1e-4


def test_zeros_stay_zeros():
    form = BlockFormat(bits=8, block_size=64)
    got, _ = computed("fine_product", np.ones((INPUTS, OUT), np.float32), form, np.zeros((ROWS, INPUTS), np.float32))
    assert not got.any()


@pytest.mark.parametrize(("inputs", "whole"), [(192, True), (200, False)])
def test_only_whole_blocks_come_in_two_parts(inputs, whole):
    form = BlockFormat(bits=8, block_size=64)
    absent = value("absent", ir.DataType.FLOAT, shape=(1,))
    assert Operand(absent, absent, form, inputs, OUT).has_whole_blocks is whole

"""ONNX Runtime computes what the nodes over codes stand for."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from codes import dequantized

from pointsman.backends.onnxruntime.weights.saturation import make_exact
from pointsman_calib.graphs.expression import DOMAIN, Expression
from pointsman_calib.rounding import BlockFormat, round_blocks
from pointsman_calib.schemes.weight_only.block_products import BlockWeight
from pointsman_calib.schemes.weight_only.integer_products import IntegerWeight

ROWS, INPUTS, OUT = 5, 192, 96
INTEGERS = BlockFormat(bits=8, block_size=None)
FORMS = [INTEGERS, BlockFormat(bits=8, block_size=64), BlockFormat(bits=4, block_size=32)]


def session_of(graph):
    """With products that are exact on every processor, as the runtime loads them."""
    make_exact(options := onnxruntime.SessionOptions())
    model = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def value(name, dtype, array=None, shape=None):
    tensor = None if array is None else ir.tensor(array, name=name)
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape or array.shape), const_value=tensor)


def product_of(weight, form: BlockFormat, *, fine: bool, relu: bool = False):
    """A product with a weight, as a function of its inputs; and the weight that its codes stand for."""
    quantized = round_blocks(weight, form)
    if form == INTEGERS:
        codes = value("codes", ir.DataType.INT8, quantized.signed_codes())
        scales = value("scales", ir.DataType.FLOAT, quantized.scales.reshape(-1))
        operand = IntegerWeight(codes, scales)
    else:
        codes = value("codes", ir.DataType.UINT8, quantized.packed_codes())
        scales = value("scales", ir.DataType.FLOAT, quantized.scales)
        operand = BlockWeight(codes, scales, form.bits, form.block_size, *weight.shape)
    fed = value("inputs", ir.DataType.FLOAT, shape=[None] * 3)
    graph = ir.Graph([fed], [], nodes=[], initializers=[codes, scales], opset_imports={"": 23, DOMAIN: 1})
    expression = Expression("product", graph)
    factor = expression.op("Relu", [fed]) if relu else fed
    result = operand.product(expression, operand.prepared(expression, factor, fine=fine), fine=fine)
    graph.extend(expression.nodes)
    graph.outputs.append(result)
    session = session_of(graph)
    return lambda inputs: session.run(None, {"inputs": inputs})[0], dequantized(quantized)


def random_weight(seed=1):
    return np.random.default_rng(seed).standard_normal((INPUTS, OUT)).astype(np.float32)


def error(form, inputs, *, fine, relu=False):
    """The largest error of a product, as a part of its largest value."""
    computed, stands_for = product_of(random_weight(), form, fine=fine, relu=relu)
    expected = (np.maximum(inputs, 0) if relu else inputs).astype(np.float64) @ stands_for
    got = computed(inputs)
    assert got.shape == expected.shape
    return np.abs(got - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("shape", [(1, ROWS, INPUTS), (2, ROWS, INPUTS), (1, 1, INPUTS)], ids=str)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_two_parts_are_a_hundred_times_as_exact_as_one(form, shape):
    inputs = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    inputs[..., :64] *= 30  # blocks of other sizes
    assert 1e-4 < error(form, inputs, fine=False) < 2e-2
    assert error(form, inputs, fine=True) < 1e-4


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_zeros_stay_zeros(form, fine):
    computed, _ = product_of(np.ones((INPUTS, OUT), np.float32), form, fine=fine)
    inputs = np.zeros((1, ROWS, INPUTS), np.float32)
    inputs[0, 0] = 1
    got = computed(inputs)
    assert got[0, 0].all()
    assert not got[0, 1:].any()


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_relu_leaves_nothing_of_what_is_negative(form, fine):
    """Nor of rows in which nothing is positive, however large what is negative is."""
    computed, stands_for = product_of(random_weight(), form, fine=fine, relu=True)
    inputs = np.random.default_rng(6).standard_normal((1, 7, INPUTS)).astype(np.float32)
    inputs[0, :4] = -np.abs(inputs[0, :4])
    inputs[0, 1, ::2], inputs[0, 2], inputs[0, 3, ::3] = 0, 0, -3e38
    inputs[0, 4, ::2], inputs[0, 5] = -3e38, inputs[0, 5] * 1e-30
    got, expected = computed(inputs), np.maximum(inputs, 0).astype(np.float64) @ stands_for
    assert not got[0, :4].any()
    largest = np.abs(expected).max(-1, keepdims=True)
    assert (np.abs(got - expected) <= 2e-2 * largest).all()


@pytest.mark.parametrize("fine", [(False, False), (False, True), (True, False), (True, True)], ids=str)
def test_a_product_behind_another_and_relu(fine):
    """Rows are scaled once, behind both; what is computed is what scaling behind each gives."""
    generator = np.random.default_rng(7)
    matrices = [generator.standard_normal((INPUTS, INPUTS)).astype(np.float32) for _ in range(2)]
    fed = value("inputs", ir.DataType.FLOAT, shape=[None] * 3)
    graph, exact = ir.Graph([fed], [], nodes=[], opset_imports={"": 23, DOMAIN: 1}), []
    result = fed
    for number, matrix in enumerate(matrices):
        quantized = round_blocks(matrix, INTEGERS)
        exact.append(dequantized(quantized))
        codes = value(f"codes{number}", ir.DataType.INT8, quantized.signed_codes())
        scales = value(f"scales{number}", ir.DataType.FLOAT, quantized.scales.reshape(-1))
        for held in (codes, scales):
            graph.register_initializer(held)
        operand, expression = IntegerWeight(codes, scales), Expression(f"product{number}", graph)
        if number:
            result = expression.op("Relu", [result])
        prepared = operand.prepared(expression, result, fine=fine[number])
        result = operand.product(expression, prepared, fine=fine[number])
        graph.extend(expression.nodes)
    graph.outputs.append(result)
    session = session_of(graph)
    inputs = generator.standard_normal((2, ROWS, INPUTS)) * 10.0 ** generator.integers(-3, 4, (2, ROWS, 1))
    (got,) = session.run(None, {"inputs": inputs.astype(np.float32)})
    expected = np.maximum(inputs @ exact[0], 0) @ exact[1]
    largest = np.abs(expected).max(-1, keepdims=True)
    assert (np.abs(got - expected) / largest).max() < (1e-3 if all(fine) else 2.5e-2)


def test_what_relu_gives_has_twice_as_many_steps():
    inputs = np.random.default_rng(3).standard_normal((1, 64, INPUTS)).astype(np.float32)
    assert error(INTEGERS, inputs, fine=False, relu=True) < 0.7 * error(INTEGERS, np.maximum(inputs, 0), fine=False)


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_a_row_of_integers_is_the_same_in_any_company(relu, fine):
    """To the last bit, beside rows a thousand times as large, and in products of any number of rows."""
    generator = np.random.default_rng(4)
    computed, _ = product_of(random_weight(), INTEGERS, fine=fine, relu=relu)
    rows = generator.standard_normal((1, 67, INPUTS)).astype(np.float32) * 10.0 ** generator.integers(-3, 4, (1, 67, 1))
    rows = rows.astype(np.float32)
    together = computed(rows)
    for count in (1, 2, 3, 8, 17, 33):
        first = int(generator.integers(67 - count))
        assert (computed(rows[:, first : first + count]) == together[:, first : first + count]).all()


def test_sums_of_the_largest_codes_do_not_overflow():
    """Of 4,096 inputs at the ends of their ranges, as 16-bit sums of two products on old processors would."""
    weight = np.where(np.arange(4096)[:, None] % 2, 1, -1) * np.ones((4096, 8), np.float32)
    computed, stands_for = product_of(weight.astype(np.float32), INTEGERS, fine=False)
    for inputs in (np.ones((1, 3, 4096)), np.where(np.arange(4096) % 2, 1, -1) * np.ones((1, 3, 4096))):
        fed = inputs.astype(np.float32)
        assert np.allclose(computed(fed), fed.astype(np.float64) @ stands_for, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(("inputs", "whole"), [(192, True), (200, False)])
def test_only_whole_blocks_come_in_two_parts(inputs, whole):
    absent = value("absent", ir.DataType.FLOAT, shape=(1,))
    assert BlockWeight(absent, absent, 4, 32 if whole else 64, inputs, OUT).can_be_fine is whole

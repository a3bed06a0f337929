"""Per-channel and block-wise rounding: bounds, searches, and the packing as ONNX Runtime reads it."""

import numpy as np
import onnx
import onnxruntime
import pytest
from codes import dequantized
from onnx import TensorProto, helper

from pointsman.errors import BundleError, OptionsError
from pointsman_calib.rounding import BlockFormat, round_blocks, round_per_channel


def weights(*shape, seed=0):
    """Heavy-tailed, with rows and columns of different sizes."""
    generator = np.random.default_rng(seed)
    return (generator.standard_t(4, shape) * np.exp(generator.standard_normal(shape[-1]))).astype(np.float32)


FORMATS = [
    BlockFormat(bits=bits, block_size=block_size, search=search)
    for bits in (4, 8)
    for block_size in (32, 128)
    for search in (True, False)
]


def matmul_nbits(quantized, activations, accuracy_level=0):
    """The product that ONNX Runtime computes."""
    form, (out, _) = quantized.format, quantized.scales.shape
    initializers = {"B": quantized.packed_codes(), "scales": quantized.scales}
    node = helper.make_node(
        "MatMulNBits",
        ["A", *initializers],
        ["Y"],
        domain="com.microsoft",
        K=quantized.inputs,
        N=out,
        bits=form.bits,
        block_size=form.block_size,
        accuracy_level=accuracy_level,
    )
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("A", TensorProto.FLOAT, ["rows", quantized.inputs])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["rows", out])],
        [onnx.numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"A": activations})[0]


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize(("inputs", "out"), [(256, 48), (200, 17), (33, 5), (16, 3)])
def test_the_packing_is_matmul_nbits(form, inputs, out):
    quantized = round_blocks(weights(inputs, out), form)
    activations = np.random.default_rng(1).standard_normal((9, inputs)).astype(np.float32)
    expected = activations.astype(np.float64) @ dequantized(quantized)
    # each output has its own size, as its column of weights has
    error = np.abs(matmul_nbits(quantized, activations) - expected).max(axis=0) / np.abs(expected).max(axis=0)
    assert error.max() < 3e-6


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_the_integer_kernel_reads_the_same_weights(form):
    quantized = round_blocks(weights(256, 48), form)
    activations = np.random.default_rng(1).standard_normal((9, 256)).astype(np.float32)
    expected = activations @ dequantized(quantized)
    found = matmul_nbits(quantized, activations, accuracy_level=4)
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.02  # it rounds activations to 8 bits


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_blocks_keep_the_shape_and_pad_with_zeros(form):
    quantized = round_blocks(weights(200, 17), form)
    blocks = -(-200 // form.block_size)
    assert quantized.codes.shape == (17, blocks, form.block_size)
    assert quantized.scales.shape == (17, blocks)
    assert quantized.codes.max() <= form.largest_code
    assert dequantized(quantized).shape == (200, 17)
    padding = quantized.codes.reshape(17, -1)[:, 200:]
    assert (padding == form.middle_code).all()


@pytest.mark.parametrize("form", [form for form in FORMATS if not form.search], ids=str)
def test_unsearched_errors_are_at_most_a_step(form):
    weight = weights(256, 48)
    quantized = round_blocks(weight, form)
    error = np.abs(dequantized(quantized) - weight).T.reshape(quantized.codes.shape)
    steps = np.abs(quantized.scales)[..., None]
    inside = (quantized.codes > 0) & (quantized.codes < form.largest_code)
    assert (error[inside] <= np.broadcast_to(steps, error.shape)[inside] * 0.5001).all()
    assert (error <= steps * 1.0001).all()  # the other end of a block


def test_blocks_put_the_extreme_on_the_lowest_code():
    weight = np.zeros((16, 2), np.float32)
    weight[:3] = [[8, -8], [-7, 7], [0.5, 1.5]]
    quantized = round_blocks(weight, BlockFormat(bits=4, block_size=16))
    np.testing.assert_array_equal(quantized.scales[:, 0], [-1, 1])
    np.testing.assert_array_equal(quantized.codes[:, 0, :3], [[0, 15, 8], [0, 15, 10]])  # halves to even
    np.testing.assert_array_equal(dequantized(quantized)[:3], [[8, -8], [-7, 7], [0, 2]])


def test_codes_are_packed_first_in_the_low_bits():
    weight = np.array([[-8 + i] for i in range(16)], np.float32)  # one block of step 1
    quantized = round_blocks(weight, BlockFormat(bits=4, block_size=16))
    np.testing.assert_array_equal(quantized.packed_codes()[0, 0], [0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE])


@pytest.mark.parametrize("bits", [4, 8])
def test_a_search_never_does_worse_in_any_block(bits):
    weight = weights(256, 48)
    plain, searched = (
        round_blocks(weight, BlockFormat(bits=bits, block_size=32, search=search)) for search in (False, True)
    )
    errors = [((dequantized(q) - weight).T.reshape(q.codes.shape) ** 2).sum(axis=-1) for q in (plain, searched)]
    assert (errors[1] <= errors[0] * 1.00001).all()
    assert errors[1].sum() < errors[0].sum() * 0.97


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("value", [0.0, 3.0, -3.0, 1e-45])
def test_constant_blocks_come_back(form, value):
    weight = np.full((40, 3), value, np.float32)
    found = dequantized(round_blocks(weight, form))
    np.testing.assert_allclose(found, weight, rtol=1e-6, atol=1e-44)


def test_columns_do_not_depend_on_those_beside_them():
    """Also where there are more than are rounded at once."""
    form, weight = BlockFormat(bits=4, block_size=32, search=True), weights(100, 6_000)
    whole = round_blocks(weight, form)
    first, last = (round_blocks(weight[:, part], form) for part in (slice(2_000), slice(2_000, None)))
    for name in ("codes", "scales"):
        parts = np.concatenate([getattr(first, name), getattr(last, name)])
        np.testing.assert_array_equal(getattr(whole, name), parts)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"bits": 3, "block_size": 32}, "3-bit blocks are not supported; use 4 or 8 bits"),
        ({"bits": 4, "block_size": 8}, "block size 8 is not supported; use a power of two of 16 or more"),
        ({"bits": 4, "block_size": 48}, "block size 48 is not supported"),
    ],
)
def test_formats_that_the_operator_lacks_are_refused(options, sentence):
    with pytest.raises(OptionsError, match=sentence):
        BlockFormat(**options)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value):
    weight = weights(32, 4)
    weight[3, 1] = value
    with pytest.raises(BundleError, match="a weight has NaN or infinite values"):
        round_blocks(weight, BlockFormat(bits=4, block_size=32))
    with pytest.raises(BundleError, match="a weight has NaN or infinite values"):
        round_per_channel(weight, (1,))


@pytest.mark.parametrize(
    ("shape", "axes", "scales"),
    [((40, 7), (1,), (1, 7)), ((40, 7), (0,), (40, 1)), ((3, 40, 7), (0, 2), (3, 1, 7)), ((40, 7), (-1,), (1, 7))],
)
def test_channels_have_their_own_scales(shape, axes, scales):
    weight = weights(*shape)
    quantized = round_per_channel(weight, axes)
    shared = tuple(set(range(len(shape))) - {axis % len(shape) for axis in axes})
    expected = np.abs(weight).max(axis=shared, keepdims=True) / np.float32(127)
    assert quantized.scales.shape == scales
    np.testing.assert_array_equal(quantized.scales, expected)
    np.testing.assert_array_equal(quantized.codes, np.rint(weight / expected).astype(np.int8))
    assert np.abs(quantized.codes.astype(int)).max() == 127


def test_channels_round_halves_to_even():
    weight = np.array([[127.0], [0.5], [1.5], [-2.5], [-127.0]], np.float32)
    np.testing.assert_array_equal(round_per_channel(weight, (1,)).codes[:, 0], [127, 0, 2, -2, -127])


def test_channels_are_what_dequantize_linear_makes_of_them():
    quantized = round_per_channel(weights(40, 7), (1,))
    node = helper.make_node("DequantizeLinear", ["codes", "scales"], ["Y"], axis=1)
    graph = helper.make_graph(
        [node],
        "one",
        [],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [40, 7])],
        [
            onnx.numpy_helper.from_array(quantized.codes, "codes"),
            onnx.numpy_helper.from_array(quantized.scales[0], "scales"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {})[0], dequantized(quantized))


def test_a_channel_search_equals_brute_force():
    sizes = np.array([1e-3, 1.0, 50.0])
    weight = (np.random.default_rng(0).standard_normal((100_000, 3)) * sizes).astype(np.float32)
    found = round_per_channel(weight, (1,), search=True)
    whole = round_per_channel(weight, (1,)).scales
    ratios = np.linspace(1.0, 0.6, 17, dtype=np.float32)[:, None, None]
    scales = whole * ratios  # [ratios, 1, out]
    codes = np.clip(np.rint(weight / scales), -127, 127)
    errors = ((codes.astype(np.float64) * scales - weight) ** 2).sum(axis=1)  # [ratios, out]
    achieved = ((dequantized(found).astype(np.float64) - weight) ** 2).sum(axis=0)
    np.testing.assert_allclose(achieved, errors.min(axis=0), rtol=1e-5)
    assert (found.scales < whole).any()


def test_channels_of_zeros_stay_zero():
    quantized = round_per_channel(np.zeros((4, 2), np.float32), (1,), search=True)
    assert not dequantized(quantized).any()

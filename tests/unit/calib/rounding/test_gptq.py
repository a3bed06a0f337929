"""GPTQ against a plain implementation of the paper's equations, and against rounding to nearest."""

import numpy as np
import pytest
from codes import dequantized

from pointsman.errors import BundleError, OptionsError
from pointsman_calib.rounding import BlockFormat, InputHessian, gptq, round_blocks
from pointsman_calib.rounding.blocks import dequantize, fit, nearest
from pointsman_calib.rounding.gptq import inverse_factor

FORMATS = [
    BlockFormat(bits=4, block_size=32),
    BlockFormat(bits=4, block_size=128),
    BlockFormat(bits=8, block_size=32),
    BlockFormat(bits=4, block_size=32, search=True),
    BlockFormat(bits=4, block_size=256),
]


def layer(inputs=300, out=40, tokens=600, seed=0):
    """A weight [inputs, out] and correlated inputs [tokens, inputs] of unequal sizes."""
    generator = np.random.default_rng(seed)
    hidden = generator.standard_normal((tokens, inputs // 4)) @ generator.standard_normal((inputs // 4, inputs))
    activations = hidden + generator.standard_normal((tokens, inputs))
    activations *= np.exp(0.5 * generator.standard_normal(inputs))
    return generator.standard_normal((inputs, out)).astype(np.float32), activations.astype(np.float32)


def hessian_of(activations):
    hessian = InputHessian(activations.shape[-1])
    hessian.update(activations)
    return hessian.matrix


def output_error(activations, weight, quantized):
    return np.linalg.norm(activations.astype(np.float64) @ (weight - dequantized(quantized)))


def plain_gptq(weight, hessian, form, damping):
    """One input at a time, eliminating it from the inverse Hessian (the paper's equations 2 and 3)."""
    inputs = len(weight)
    rest = weight.astype(np.float64)
    inverse = np.linalg.inv(hessian + damping * np.trace(hessian) / inputs * np.eye(inputs))
    result = np.empty_like(weight)
    for row in range(inputs):
        if row % form.block_size == 0:
            scales = fit(rest[row : row + form.block_size].T.astype(np.float32), form)
        result[row] = dequantize(nearest(rest[row], scales, form), scales, form)
        error = (rest[row] - result[row]) / inverse[row, row]
        rest -= np.outer(inverse[:, row], error)
        inverse = inverse - np.outer(inverse[:, row], inverse[row]) / inverse[row, row]
    return result


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_it_equals_a_plain_implementation(form):
    weight, activations = layer()
    found = dequantized(gptq(weight, hessian_of(activations), form))
    expected = plain_gptq(weight, hessian_of(activations), form, 0.01)
    # In float32 and float64 a few values lie on either side of a half, and what follows makes up for either.
    same = np.isclose(found, expected, rtol=1e-4, atol=1e-5).mean()
    assert same > 0.99
    errors = [np.linalg.norm(activations.astype(np.float64) @ (weight - one)) for one in (found, expected)]
    assert errors[0] == pytest.approx(errors[1], rel=0.01)


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_outputs_change_less_than_under_rounding_to_nearest(form):
    weight, activations = layer()
    quantized = gptq(weight, hessian_of(activations), form)
    nearest_error = output_error(activations, weight, round_blocks(weight, form))
    assert output_error(activations, weight, quantized) < 0.6 * nearest_error


def test_few_tokens_still_help_and_unseen_inputs_are_rounded_to_nearest():
    weight, activations = layer(inputs=256, tokens=10)
    activations[:, 5::7] = 0
    form = BlockFormat(bits=4, block_size=32)
    quantized = gptq(weight, hessian_of(activations), form)
    to_nearest = round_blocks(weight, form)
    assert output_error(activations, weight, quantized) < 0.3 * output_error(activations, weight, to_nearest)
    steps = np.abs(np.repeat(quantized.scales, 32, axis=1).T)
    unseen = (dequantized(quantized) - weight)[5::7]
    inside = (quantized.codes.reshape(40, -1).T % 15 != 0)[5::7]
    assert (np.abs(unseen) <= 0.5001 * steps[5::7])[inside].all()


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_without_tokens_it_rounds_to_nearest(form):
    weight, _ = layer()
    hessian = InputHessian(300)
    hessian.update(np.empty((0, 300), np.float32))
    found, expected = gptq(weight, hessian.matrix, form), round_blocks(weight, form)
    np.testing.assert_array_equal(found.codes, expected.codes)
    np.testing.assert_array_equal(found.scales, expected.scales)


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_uncorrelated_inputs_leave_nothing_to_make_up_for(form):
    weight, _ = layer()
    found, expected = gptq(weight, np.eye(300), form), round_blocks(weight, form)
    assert np.mean(found.codes != expected.codes) < 1e-3  # halves in float32 that are none in float64
    np.testing.assert_array_equal(found.scales, expected.scales)


def test_hessians_sum_over_batches():
    _, activations = layer()
    hessian = InputHessian(300)
    for batch in np.array_split(activations, 7):
        hessian.update(batch[None])
    expected = activations.T.astype(np.float64) @ activations
    assert hessian.matrix.dtype == np.float32
    np.testing.assert_allclose(hessian.matrix, expected, atol=1e-5 * expected.max())


@pytest.mark.parametrize("inputs", [5, 64, 65, 300])
def test_the_factor_is_the_inverse_hessians(inputs):
    _, activations = layer(inputs=inputs)
    hessian = hessian_of(activations)
    factor = inverse_factor(hessian, 0.01)
    damped = hessian + 0.01 * np.diagonal(hessian).mean() * np.eye(inputs)
    np.testing.assert_array_equal(factor, np.triu(factor))
    np.testing.assert_allclose(factor @ damped @ factor.T, np.eye(inputs), atol=1e-3)


def test_mistakes_are_named():
    weight, activations = layer()
    form = FORMATS[0]
    hessian = hessian_of(activations)
    with pytest.raises(OptionsError, match="damping is 0; it must be above 0"):
        gptq(weight, hessian, form, damping=0)
    with pytest.raises(OptionsError, match=r"not positive definite with damping 0\.01; use a larger one"):
        gptq(weight, hessian - 0.1 * hessian.max() * np.eye(300), form)
    with pytest.raises(BundleError, match="a Hessian has NaN"):
        gptq(weight, hessian * np.nan, form)
    with pytest.raises(BundleError, match="a layer's input has NaN"):
        InputHessian(300).update(activations * np.inf)

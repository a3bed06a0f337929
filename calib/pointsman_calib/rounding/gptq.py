"""GPTQ: rounding one linear layer's weights so that its outputs, not its weights, change least.

E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers" (2022), Algorithm 1: inputs are rounded one after another, and each one's rounding error is made up for by
the inputs not yet rounded, as the inverse Hessian of the squared output error says.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import OptionsError
from pointsman_calib.rounding.blocks import (
    BlockFormat,
    BlockQuantized,
    Codes,
    Scales,
    dequantize,
    fit,
    nearest,
    round_blocks,
)
from pointsman_calib.rounding.finite import require_finite

_BATCH: Final = 128  # inputs rounded before their errors are spread over the rest in one matrix product
_TRIANGLE: Final = 64  # below this size a triangle is inverted directly

Float64s = NDArray[np.float64]


class InputHessian:
    """Sums H = 2 XᵀX over the inputs X [tokens, inputs] of a layer, or of one expert.

    Attributes:
        matrix: float32 [inputs, inputs].
    """

    def __init__(self, inputs: int) -> None:
        self.matrix: NDArray[np.float32] = np.zeros((inputs, inputs), np.float32)

    def update(self, inputs: NDArray[np.floating[Any]]) -> None:
        """Add inputs [..., inputs]; none at all is fine.

        Raises:
            BundleError: one is NaN or infinite; the sum is as it was before.
        """
        require_finite(inputs, "a layer's input")
        rows = inputs.reshape(-1, len(self.matrix)).astype(np.float32, copy=False)
        self.matrix += 2 * (rows.T @ rows)


def gptq(
    weight: NDArray[np.floating[Any]],
    hessian: NDArray[np.floating[Any]],
    form: BlockFormat,
    *,
    damping: float = 0.01,
) -> BlockQuantized:
    """Round a layer's weights in blocks along the input axis.

    A block's scale is fitted when its first input's turn comes, to weights that already make up for earlier errors.

    Unlike the authors' program, inputs that were never active keep their weights, rounded to nearest, instead of
    becoming zero: of an expert that few tokens reached they are most, and other tokens may need them.

    Args:
        weight: [inputs, out].
        hessian: [inputs, inputs] of `InputHessian`. It may be of low rank. If it is all zeros (an expert that no token
            reached), there is nothing to optimize, and the result is `round_blocks`'s.
        form: the format.
        damping: added to the Hessian's diagonal, as a part of the diagonal's mean.

    Raises:
        BundleError: a weight or the Hessian is NaN or infinite.
        OptionsError: the damping is not positive or too small to make the Hessian definite.
    """
    require_finite(weight, "a weight")
    require_finite(hessian, "a Hessian")
    if damping <= 0:
        raise OptionsError(f"damping is {damping}; it must be above 0 (0.01 is usual)")
    if not np.diagonal(hessian).any():
        return round_blocks(weight, form)
    state = _State(weight, form)
    state.round_all(inverse_factor(hessian, damping))
    return state.result()


class _State:
    """A layer while it is rounded.

    Attributes:
        form: the format.
        size: inputs of a block.
        rest: [inputs, out] weights, making up for the errors of those rounded already.
        codes: [blocks * block_size, out]
        scales: [blocks, out]
    """

    def __init__(self, weight: NDArray[np.floating[Any]], form: BlockFormat) -> None:
        inputs, out = weight.shape
        self.form, self.size = form, form.size(inputs)
        blocks = -(-inputs // self.size)
        self.rest: Float64s = weight.astype(np.float64)
        self.codes: Codes = np.full((blocks * self.size, out), form.middle_code, np.uint8)
        self.scales: Scales = np.empty((blocks, out), np.float32)

    def fit_block(self, block: int) -> None:
        """Choose a block's scales from `rest`."""
        first = block * self.size
        rows = self.rest[first : first + self.size]
        self.scales[block] = fit(rows.T.astype(np.float32), self.form)

    def round_all(self, factor: Float64s) -> None:
        """Round in batches that begin with a block, so that it is fitted to weights that are up to date."""
        batch = max(_BATCH, self.form.block_size or 0)
        for start in range(0, len(self.rest), batch):
            stop = min(start + batch, len(self.rest))
            errors = self.round_batch(factor[start:stop, start:stop], start, stop)
            self.rest[stop:] -= factor[start:stop, stop:].T @ errors

    def round_batch(self, factor: Float64s, start: int, stop: int) -> Float64s:
        """Round the inputs from `start` to `stop`; [stop - start, out] errors, each over the factor's diagonal."""
        batch = self.rest[start:stop]
        errors = np.empty_like(batch)
        for turn in range(stop - start):
            if (start + turn) % self.size == 0:
                self.fit_block((start + turn) // self.size)
            error = batch[turn] - self.round_input(start + turn, batch[turn])
            errors[turn] = error / factor[turn, turn]
            batch[turn + 1 :] -= factor[turn, turn + 1 :, None] * errors[turn]
        return errors

    def round_input(self, row: int, values: Float64s) -> NDArray[np.float32]:
        """Set one input's codes to the nearest; [out] what they stand for."""
        scales = self.scales[row // self.size]
        self.codes[row] = nearest(values, scales, self.form)
        return dequantize(self.codes[row], scales, self.form)

    def result(self) -> BlockQuantized:
        by_output = np.ascontiguousarray(self.codes.T)
        return BlockQuantized(
            format=self.form,
            inputs=len(self.rest),
            codes=by_output.reshape(len(by_output), -1, self.size),
            scales=np.ascontiguousarray(self.scales.T),
        )


def inverse_factor(hessian: NDArray[np.floating[Any]], damping: float) -> Float64s:
    """The upper triangular U with UᵀU = (H + damping · mean(diag H) · I)⁻¹.

    With J the reversal of order and J H J = L Lᵀ, U is J L⁻¹ J: one Cholesky decomposition and one triangular inverse,
    where the paper's formulation decomposes, inverts and decomposes again.

    Args:
        hessian: [inputs, inputs], positive semidefinite, not all zeros.
        damping: as a part of the diagonal's mean.

    Raises:
        OptionsError: it is not positive definite even so.
    """
    damped = hessian.astype(np.float64)
    damped[np.diag_indices_from(damped)] += damping * np.diagonal(hessian).mean()
    try:
        lower: Float64s = np.linalg.cholesky(damped[::-1, ::-1]).astype(np.float64, copy=False)
    except np.linalg.LinAlgError as error:
        raise OptionsError(f"the Hessian is not positive definite with damping {damping}; use a larger one") from error
    return np.ascontiguousarray(_lower_inverse(lower)[::-1, ::-1])


def _lower_inverse(lower: Float64s) -> Float64s:
    """Inverse of a lower triangle by halves, nearly all of it matrix products."""
    size = len(lower)
    if size <= _TRIANGLE:
        return np.tril(np.linalg.inv(lower)).astype(np.float64, copy=False)
    half = size // 2
    inverse = np.zeros_like(lower)
    inverse[:half, :half] = _lower_inverse(lower[:half, :half])
    inverse[half:, half:] = _lower_inverse(lower[half:, half:])
    inverse[half:, :half] = -inverse[half:, half:] @ (lower[half:, :half] @ inverse[:half, :half])
    return inverse

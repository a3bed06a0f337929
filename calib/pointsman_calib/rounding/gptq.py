"""GPTQ: rounding one linear layer's weights so that its outputs, not its weights, change least.

E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers" (2022), Algorithm 1: inputs are rounded one after another, and each one's rounding error is made up for by
the inputs not yet rounded, as the inverse Hessian of the squared output error says.
"""

from collections import deque
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import OptionsError
from pointsman.processors import usable
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

# Errors are spread in matrix products: over the next few inputs one by one, over the rest of a batch after every span,
# over all that is left after every batch. Block sizes divide a batch, or the other way round.
_BATCH: Final = 128
_SPAN: Final = 16
_TRIANGLE: Final = 64  # up to this size a matrix is decomposed directly
_FIT_SLAB: Final = 512  # outputs whose scales are fitted at once: the temporaries stay in the cache

Floats = NDArray[np.float32]


class InputHessian:
    """Sums H = XᵀX over the inputs X [tokens, inputs] of a layer, or of one expert; GPTQ asks for no scale of it.

    Attributes:
        matrix: float32 [inputs, inputs].
    """

    def __init__(self, inputs: int) -> None:
        self.matrix: Floats = np.zeros((inputs, inputs), np.float32)

    def update(self, inputs: NDArray[np.floating[Any]]) -> None:
        """Add inputs [..., inputs]; none at all is fine.

        Raises:
            BundleError: one is NaN or infinite; the sum is as it was before.
        """
        require_finite(inputs, "a layer's input")
        rows = inputs.reshape(-1, len(self.matrix)).astype(np.float32, copy=False)
        self.matrix += rows.T @ rows  # a symmetric product: NumPy has BLAS compute one half of it


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
        self.rest: Floats = np.array(weight, np.float32, order="C")
        self.codes: Codes = np.full((blocks * self.size, out), form.middle_code, np.uint8)
        self.scales: Scales = np.empty((blocks, out), np.float32)

    def fit_block(self, block: int, pool: Executor) -> None:
        """Choose a block's scales from `rest`, those of some outputs on each core."""
        first = block * self.size
        rows = self.rest[first : first + self.size]

        def fill(start: int) -> None:
            part = slice(start, start + _FIT_SLAB)
            self.scales[block, part] = fit(np.ascontiguousarray(rows[:, part].T), self.form)

        deque(pool.map(fill, range(0, rows.shape[1], _FIT_SLAB)), maxlen=0)

    def round_all(self, factor: Floats) -> None:
        """Round in batches."""
        with ThreadPoolExecutor(usable()) as pool:
            for start in range(0, len(self.rest), _BATCH):
                stop = min(start + _BATCH, len(self.rest))
                errors = self.round_batch(factor, start, stop, pool)
                self.rest[stop:] -= factor[start:stop, stop:].T @ errors

    def round_batch(self, factor: Floats, start: int, stop: int, pool: Executor) -> Floats:
        """Round the inputs from `start` to `stop`; [stop - start, out] errors, each over the factor's diagonal."""
        errors = np.empty_like(self.rest[start:stop])
        for first in range(start, stop, _SPAN):
            last = min(first + _SPAN, stop)
            if first % self.size == 0:
                self.fit_block(first // self.size, pool)
            found = errors[first - start : last - start]
            self.round_span(factor[first:last, first:last], first, found)
            self.rest[last:stop] -= factor[first:last, last:stop].T @ found
        return errors

    def round_span(self, factor: Floats, first: int, errors: Floats) -> None:
        """Round as many inputs as the factor has, which are of one block; their errors go into `errors`."""
        scales = self.scales[first // self.size]
        span = self.rest[first : first + len(factor)]
        for turn, values in enumerate(span):
            codes = nearest(values, scales, self.form)
            self.codes[first + turn] = codes
            error = (values - dequantize(codes, scales, self.form)) / factor[turn, turn]
            errors[turn] = error
            span[turn + 1 :] -= factor[turn, turn + 1 :, None] * error

    def result(self) -> BlockQuantized:
        by_output = np.ascontiguousarray(self.codes.T)
        return BlockQuantized(
            format=self.form,
            inputs=len(self.rest),
            codes=by_output.reshape(len(by_output), -1, self.size),
            scales=np.ascontiguousarray(self.scales.T),
        )


def inverse_factor(hessian: NDArray[np.floating[Any]], damping: float) -> Floats:
    """The upper triangular U with UᵀU = (H + damping · mean(diag H) · I)⁻¹.

    With J the reversal of order and J H J = L Lᵀ, U is J L⁻¹ J: one Cholesky decomposition and one triangular inverse,
    where the paper's formulation decomposes, inverts and decomposes again. Both are made at once, by halves, so that
    nearly all of it is matrix products in float32, which the damping leaves precise enough.

    Args:
        hessian: [inputs, inputs], positive semidefinite, not all zeros.
        damping: as a part of the diagonal's mean.

    Raises:
        OptionsError: it is not positive definite even so.
    """
    damped = np.array(hessian[::-1, ::-1], np.float32, order="C")
    damped[np.diag_indices_from(damped)] += np.float32(damping * np.diagonal(hessian).mean())
    try:
        inverse = _inverse_of_cholesky(damped)
    except np.linalg.LinAlgError as error:
        raise OptionsError(f"the Hessian is not positive definite with damping {damping}; use a larger one") from error
    return np.ascontiguousarray(inverse[::-1, ::-1])


def _inverse_of_cholesky(matrix: Floats) -> Floats:
    """L⁻¹ of a positive definite matrix L Lᵀ, which is overwritten in part."""
    size = len(matrix)
    if size <= _TRIANGLE:
        lower = np.linalg.cholesky(matrix.astype(np.float64))
        return np.tril(np.linalg.inv(lower)).astype(np.float32)
    half = size // 2
    inverse = np.zeros_like(matrix)
    inverse[:half, :half] = first = _inverse_of_cholesky(matrix[:half, :half])
    below = matrix[half:, :half] @ first.T  # of L
    matrix[half:, half:] -= below @ below.T
    inverse[half:, half:] = second = _inverse_of_cholesky(matrix[half:, half:])
    inverse[half:, :half] = -(second @ (below @ first))
    return inverse

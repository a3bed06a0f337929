"""INT4 and INT8 in blocks along the input axis, in the layout of ONNX Runtime's MatMulNBits.

The operator computes `(code - zero_point) * scale` with unsigned codes. Its inputs are B uint8 [out, blocks, bytes],
codes packed along the block with the first in the low bits; scales [out, blocks]; and, if they differ from
2^(bits - 1), zero_points uint8 [out, bytes], packed likewise along the blocks (schema of com.microsoft.MatMulNBits).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import OptionsError
from pointsman_calib.rounding.finite import require_finite

# Symmetric codes reach one step further below zero than above, so the best step may also be a little wider than the
# one that puts the extreme value on the lowest code; 1 is among them, so that a search never does worse than none.
_SEARCHED_RATIOS: Final = 1.15 - 0.025 * np.arange(23)
_SLAB: Final = 1 << 18  # weights rounded at once: the temporaries stay in the cache

Scales = NDArray[np.float32]
Codes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFormat:
    """How blocks are quantized.

    Attributes:
        bits: of a code.
        block_size: inputs that share a scale: a power of two, 16 or more.
        symmetric: zero is the code 2^(bits - 1) everywhere; otherwise each block has its own zero point.
        search: choose each block's scale for the least squared error, of 23 clips, instead of from its extremes.
    """

    bits: Literal[4, 8]
    block_size: int
    symmetric: bool = True
    search: bool = False

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise OptionsError(f"{self.bits}-bit blocks are not supported; use 4 or 8 bits")
        if self.block_size < 16 or self.block_size & (self.block_size - 1):
            raise OptionsError(f"block size {self.block_size} is not supported; use a power of two of 16 or more")

    @property
    def largest_code(self) -> int:
        """15 or 255."""
        return (1 << self.bits) - 1

    @property
    def middle_code(self) -> int:
        """8 or 128: the symmetric zero point."""
        return 1 << (self.bits - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockQuantized:
    """A quantized weight [inputs, out].

    Attributes:
        format: how it was quantized.
        inputs: rows of the weight; the last block is padded with zero points when they do not fill it.
        codes: uint8 [out, blocks, block_size], one code each.
        scales: float32 [out, blocks]; negative where a symmetric block's extreme value is positive.
        zero_points: uint8 [out, blocks], one code each.
    """

    format: BlockFormat
    inputs: int
    codes: Codes
    scales: Scales
    zero_points: Codes

    def packed_codes(self) -> Codes:
        """The operator's B: uint8 [out, blocks, block_size * bits / 8]."""
        return _packed(self.codes, self.format.bits)

    def packed_zero_points(self) -> Codes | None:
        """The operator's zero_points: uint8 [out, ceil(blocks * bits / 8)]; None if symmetric, which is its default."""
        return None if self.format.symmetric else _packed(self.zero_points, self.format.bits)

    def dequantized(self) -> NDArray[np.float32]:
        """[inputs, out] as the operator reads it."""
        blocks = dequantize(self.codes, self.scales[..., None], self.zero_points[..., None])
        return np.ascontiguousarray(blocks.reshape(len(blocks), -1)[:, : self.inputs].T)


def round_blocks(weight: NDArray[np.floating[Any]], form: BlockFormat) -> BlockQuantized:
    """Round every weight to the nearest code of its block, halves to even.

    Args:
        weight: [inputs, out].
        form: the format.

    Raises:
        BundleError: a weight is NaN or infinite.
    """
    require_finite(weight, "a weight")
    inputs, out = weight.shape
    count = -(-inputs // form.block_size)
    codes = np.empty((out, count, form.block_size), np.uint8)
    scales, zero_points = np.empty((out, count), np.float32), np.empty((out, count), np.uint8)
    slab = max(1, _SLAB // inputs)
    for start in range(0, out, slab):
        part = slice(start, start + slab)
        blocks = np.zeros((min(slab, out - start), count * form.block_size), np.float32)
        blocks[:, :inputs] = weight[:, part].T
        blocks = blocks.reshape(-1, count, form.block_size)
        scales[part], zero_points[part] = fit(blocks, form)
        codes[part] = nearest(blocks, scales[part][..., None], zero_points[part][..., None], form)
    return BlockQuantized(format=form, inputs=inputs, codes=codes, scales=scales, zero_points=zero_points)


def fit(blocks: NDArray[np.float32], form: BlockFormat) -> tuple[Scales, Codes]:
    """Scale and zero point of each block.

    A symmetric block's extreme value gets the lowest code, under a negative scale if it is positive: all 2^bits codes
    are of use then, as in llama.cpp's Q4_0 and ONNX Runtime's own quantizer.

    Args:
        blocks: [..., weights of a block].
        form: the format.

    Returns:
        scales float32 [...] and zero points uint8 [...].
    """
    grids = _symmetric_grids(blocks, form) if form.symmetric else _asymmetric_grids(blocks, form)
    best = grids(1.0)
    if not form.search:
        return best
    least = _squared_error(blocks, *best, form)
    for ratio in _SEARCHED_RATIOS:
        grid = grids(float(ratio))
        error = _squared_error(blocks, *grid, form)
        better = error < least
        best = np.where(better, grid[0], best[0]), np.where(better, grid[1], best[1])
        least = np.minimum(error, least)
    return best


def nearest(values: NDArray[np.floating[Any]], scales: Scales, zero_points: Codes, form: BlockFormat) -> Codes:
    """The nearest code of every value; the three arrays broadcast."""
    codes: NDArray[np.floating[Any]] = np.rint(values / scales)
    codes += zero_points
    np.clip(codes, 0, form.largest_code, out=codes)
    return codes.astype(np.uint8)


def dequantize(codes: Codes, scales: Scales, zero_points: Codes) -> NDArray[np.float32]:
    """(code - zero point) * scale in float32; the three arrays broadcast."""
    return (codes.astype(np.float32) - zero_points) * scales


def _symmetric_grids(blocks: NDArray[np.float32], form: BlockFormat) -> Callable[[float], tuple[Scales, Codes]]:
    lowest, highest = blocks.min(axis=-1), blocks.max(axis=-1)
    extreme = np.where(-lowest >= highest, lowest, highest)
    zero_points = np.full(extreme.shape, form.middle_code, np.uint8)

    def grid(ratio: float) -> tuple[Scales, Codes]:
        return _usable(extreme * (-ratio / form.middle_code)), zero_points

    return grid


def _asymmetric_grids(blocks: NDArray[np.float32], form: BlockFormat) -> Callable[[float], tuple[Scales, Codes]]:
    lowest, highest = np.minimum(blocks.min(axis=-1), 0), np.maximum(blocks.max(axis=-1), 0)

    def grid(ratio: float) -> tuple[Scales, Codes]:
        scales = _usable((highest - lowest) * (ratio / form.largest_code))
        zero_points = np.clip(np.rint(-ratio * lowest / scales), 0, form.largest_code)
        return scales, zero_points.astype(np.uint8)

    return grid


def _usable(scales: NDArray[np.floating[Any]]) -> Scales:
    """In float32, with 1 where a block is all zeros, whose codes are the zero point under any scale."""
    narrow = scales.astype(np.float32)
    return np.where(narrow != 0, narrow, np.float32(1))


def _squared_error(
    blocks: NDArray[np.float32], scales: Scales, zero_points: Codes, form: BlockFormat
) -> NDArray[np.float32]:
    error: NDArray[np.float32] = np.rint(blocks / scales[..., None])
    offset = zero_points[..., None].astype(np.float32)
    np.clip(error, -offset, form.largest_code - offset, out=error)
    error *= scales[..., None]
    error -= blocks
    return np.asarray(np.einsum("...i,...i->...", error, error))


def _packed(codes: Codes, bits: int) -> Codes:
    """Codes packed along the last axis, the first in the low bits; an odd one is followed by zero bits."""
    if bits == 8:
        return codes
    packed = codes[..., ::2].copy()
    packed[..., : codes.shape[-1] // 2] |= codes[..., 1::2] << 4
    return packed

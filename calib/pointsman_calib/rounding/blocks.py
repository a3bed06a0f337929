"""INT4 and INT8 along the input axis, in blocks or with one scale for each column of a weight.

Blocks are in the layout of ONNX Runtime's MatMulNBits. The operator computes `(code - 2^(bits - 1)) * scale` with
unsigned codes where it is given no zero points. Its inputs are B uint8 [out, blocks, bytes], codes packed along the
block with the first in the low bits, and scales [out, blocks] (schema of com.microsoft.MatMulNBits).
"""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import OptionsError
from pointsman.processors import usable
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
        block_size: inputs that share a scale: a power of two, 16 or more; None where all of a column do.
        search: choose each block's scale for the least squared error, of 23 clips, instead of from its extremes.
    """

    bits: Literal[4, 8]
    block_size: int | None
    search: bool = False

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise OptionsError(f"{self.bits}-bit blocks are not supported; use 4 or 8 bits")
        size = self.block_size
        if size is not None and (size < 16 or size & (size - 1)):
            raise OptionsError(f"block size {size} is not supported; use a power of two of 16 or more")

    def size(self, inputs: int) -> int:
        """How many of a weight's inputs share a scale."""
        return inputs if self.block_size is None else self.block_size

    def __str__(self) -> str:
        """For a manifest."""
        return (
            f"int{self.bits} by column" if self.block_size is None else f"int{self.bits} in blocks of {self.block_size}"
        )

    @property
    def largest_code(self) -> int:
        """15 or 255."""
        return (1 << self.bits) - 1

    @property
    def middle_code(self) -> int:
        """8 or 128: the code of zero."""
        return 1 << (self.bits - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockQuantized:
    """A quantized weight [inputs, out].

    Attributes:
        format: how it was quantized.
        inputs: rows of the weight; the last block is padded with zeros when they do not fill it.
        codes: uint8 [out, blocks, block_size], one code each.
        scales: float32 [out, blocks]; negative where a block's extreme value is positive.
    """

    format: BlockFormat
    inputs: int
    codes: Codes
    scales: Scales

    def packed_codes(self) -> Codes:
        """The operator's B: uint8 [out, blocks, block_size * bits / 8]."""
        return _packed(self.codes, self.format.bits)

    def signed_codes(self) -> NDArray[np.int8]:
        """Of 8 bits with one scale a column, the codes less the middle one, [inputs, out]: an integer product's B."""
        assert self.format.bits == 8
        assert self.format.block_size is None
        return np.ascontiguousarray((self.codes[:, 0] ^ self.format.middle_code).view(np.int8).T)


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
    size = form.size(inputs)
    count = -(-inputs // size)
    codes = np.empty((out, count, size), np.uint8)
    scales = np.empty((out, count), np.float32)
    slab = max(1, _SLAB // inputs)

    def fill(start: int) -> None:
        part = slice(start, start + slab)
        blocks = np.zeros((min(slab, out - start), count * size), np.float32)
        blocks[:, :inputs] = weight[:, part].T
        blocks = blocks.reshape(-1, count, size)
        scales[part] = fit(blocks, form)
        codes[part] = nearest(blocks, scales[part][..., None], form)

    # NumPy lets the interpreter go while it computes, so each core has a slab of its own.
    with ThreadPoolExecutor(usable()) as pool:
        deque(pool.map(fill, range(0, out, slab)), maxlen=0)
    return BlockQuantized(format=form, inputs=inputs, codes=codes, scales=scales)


def fit(blocks: NDArray[np.float32], form: BlockFormat) -> Scales:
    """Scale of each block.

    The extreme value gets the lowest code, under a negative scale if it is positive: all 2^bits codes are of use then,
    as in llama.cpp's Q4_0 and ONNX Runtime's own quantizer.

    Args:
        blocks: [..., weights of a block].
        form: the format.

    Returns:
        float32 [...].
    """
    lowest, highest = blocks.min(axis=-1), blocks.max(axis=-1)
    extreme = np.where(-lowest >= highest, lowest, highest)
    whole = _usable(extreme * (-1 / form.middle_code))
    return _least_error(blocks, extreme, whole, form) if form.search else whole


def nearest(values: NDArray[np.floating[Any]], scales: Scales, form: BlockFormat) -> Codes:
    """The nearest code of every value; the two arrays broadcast."""
    codes: NDArray[np.floating[Any]] = np.rint(values / scales)
    codes += form.middle_code
    np.clip(codes, 0, form.largest_code, out=codes)
    return codes.astype(np.uint8)


def dequantize(codes: Codes, scales: Scales, form: BlockFormat) -> NDArray[np.float32]:
    """What codes stand for, in float32; the two arrays broadcast."""
    return (codes.astype(np.float32) - form.middle_code) * scales


def _least_error(blocks: NDArray[np.float32], extreme: NDArray[np.float32], whole: Scales, form: BlockFormat) -> Scales:
    # NumPy broadcasts scales along a long last axis in half the time that it takes along a block's few weights.
    weights = np.ascontiguousarray(np.moveaxis(blocks, -1, 0))
    room = np.empty_like(weights)
    best, least = whole, _squared_error(weights, whole, form, room)
    for ratio in _SEARCHED_RATIOS:
        scales = _usable(extreme * (-float(ratio) / form.middle_code))
        error = _squared_error(weights, scales, form, room)
        best, least = np.where(error < least, scales, best), np.minimum(error, least)
    return best


def _usable(scales: NDArray[np.floating[Any]]) -> Scales:
    """In float32, with 1 where a block is all zeros, whose codes are zero's under any scale."""
    narrow = scales.astype(np.float32)
    return np.where(narrow != 0, narrow, np.float32(1))


def _squared_error(
    weights: NDArray[np.float32], scales: Scales, form: BlockFormat, room: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Of each block, whose weights are along the first axis; `room` is overwritten."""
    np.divide(weights, scales, out=room)
    np.rint(room, out=room)
    np.clip(room, -form.middle_code, form.largest_code - form.middle_code, out=room)
    room *= scales
    room -= weights
    return np.asarray(np.einsum("i...,i...->...", room, room))


def _packed(codes: Codes, bits: int) -> Codes:
    """Codes packed along the last axis, the first in the low bits; an odd one is followed by zero bits."""
    if bits == 8:
        return codes
    packed = codes[..., ::2].copy()
    packed[..., : codes.shape[-1] // 2] |= codes[..., 1::2] << 4
    return packed

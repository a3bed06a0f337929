"""Symmetric INT8 with one scale for each channel: what QuantizeLinear / DequantizeLinear and TensorRT take."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pointsman_calib.rounding.finite import require_finite

LARGEST_INT8: Final = 127  # symmetric INT8 uses -127 … 127
_SEARCHED_RATIOS: Final = np.linspace(1.0, 0.6, 17)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelQuantized:
    """A quantized weight.

    Attributes:
        codes: int8, -127 … 127, of the weight's shape.
        scales: float32, of the weight's number of axes, 1 along every axis that shares a scale.
    """

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]


def round_per_channel(
    weight: NDArray[np.floating[Any]], axes: tuple[int, ...], *, search: bool = False
) -> ChannelQuantized:
    """Round to the nearest code, halves to even, under one scale for each index along `axes`.

    Args:
        weight: of any shape: `axes=(1,)` of [in, out] is per output channel; `(0, 2)` of [experts, in, out] is per
            expert and output channel, with scales [experts, 1, out].
        axes: along which every index has a scale of its own.
        search: choose each scale for the least squared error, of 17 clips from the largest magnitude down to 0.6 of it,
            instead of the largest magnitude over 127.

    Raises:
        BundleError: a weight is NaN or infinite.
    """
    require_finite(weight, "a weight")
    shared = tuple(axis for axis in range(weight.ndim) if axis not in {kept % weight.ndim for kept in axes})
    exact = weight.astype(np.float32, copy=False)
    whole = _usable(np.abs(exact).max(axis=shared, keepdims=True, initial=0.0) / np.float32(LARGEST_INT8))
    scales = _least_error(exact, whole, shared) if search else whole
    return ChannelQuantized(codes=_codes(exact, scales), scales=scales)


def _least_error(
    weight: NDArray[np.float32], whole: NDArray[np.float32], shared: tuple[int, ...]
) -> NDArray[np.float32]:
    best, least = whole, np.full(whole.shape, np.inf)
    for ratio in _SEARCHED_RATIOS:
        scales = _usable(whole * np.float32(ratio))
        error = ((_codes(weight, scales) * scales - weight) ** 2).sum(axis=shared, keepdims=True)
        best, least = np.where(error < least, scales, best), np.minimum(error, least)
    return best


def _codes(weight: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.int8]:
    codes: NDArray[np.float32] = np.rint(weight / scales)
    np.clip(codes, -LARGEST_INT8, LARGEST_INT8, out=codes)
    return codes.astype(np.int8, copy=False)


def _usable(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scales with 1 where a channel is all zeros, whose codes are zeros under any scale."""
    return np.where(scales > 0, scales, np.float32(1))

"""Weights to small integers: per output channel for Q/DQ graphs, in blocks for MatMulNBits, and GPTQ over blocks."""

from pointsman_calib.rounding.blocks import BlockFormat, BlockQuantized, round_blocks
from pointsman_calib.rounding.gptq import InputHessian, gptq
from pointsman_calib.rounding.per_channel import LARGEST_INT8, ChannelQuantized, round_per_channel

__all__ = [
    "LARGEST_INT8",
    "BlockFormat",
    "BlockQuantized",
    "ChannelQuantized",
    "InputHessian",
    "gptq",
    "round_blocks",
    "round_per_channel",
]

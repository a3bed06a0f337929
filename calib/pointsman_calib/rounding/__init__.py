"""Weights to small integers: per channel for Q/DQ graphs, by column or in blocks for weight-only ones, and GPTQ."""

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

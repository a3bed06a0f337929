"""What the codes of quantized weights stand for, by the definition of the operators that read them."""

import numpy as np

from pointsman_calib.rounding import BlockQuantized, ChannelQuantized


def dequantized(quantized: BlockQuantized | ChannelQuantized) -> np.ndarray:
    """The weight, float32 in its own shape."""
    if isinstance(quantized, ChannelQuantized):  # DequantizeLinear
        return quantized.codes.astype(np.float32) * quantized.scales
    signed = quantized.codes.astype(np.float32) - 2 ** (quantized.format.bits - 1)  # MatMulNBits
    by_output = (signed * quantized.scales[..., None]).reshape(len(signed), -1)
    return np.ascontiguousarray(by_output[:, : quantized.inputs].T)

"""Which weights a scheme quantizes, and into what blocks."""

from typing import Final

from pointsman.bundle import Scheme
from pointsman.bundle.names import HEAD
from pointsman_calib.rounding import BlockFormat
from pointsman_calib.schemes.weight_only.graphs import Weight

_LONG: Final = 2048  # inputs


def block_format(weight: Weight, scheme: Scheme) -> BlockFormat | None:
    """How a weight is quantized under a scheme; None keeps it in float."""
    if weight.gathered or weight.transposed or weight.name == HEAD:
        return embedding_format(weight)
    if scheme == "int4":
        # Of a long row, scales of blocks of 32 would be a fifth of all bytes.
        long = weight.inputs >= _LONG and weight.inputs % 64 == 0
        return BlockFormat(bits=4, block_size=64 if long else 32, search=True)
    # The largest blocks that leave no padding; below that, padding costs less than scales.
    size = next((size for size in (128, 64) if weight.inputs % size == 0), 32)
    return BlockFormat(bits=8, block_size=size)


def embedding_format(weight: Weight) -> BlockFormat | None:
    """INT8 in blocks that divide a row, since looked-up rows are not padded; None if none does.

    What a look-up loses, no rounding and no finer inputs can make up for: its blocks are small.
    """
    sizes = (32, 16) if weight.gathered else (128, 64, 32, 16)
    size = next((size for size in sizes if weight.inputs % size == 0), None)
    return None if size is None else BlockFormat(bits=8, block_size=size)

"""Which weights a scheme quantizes, and into what."""

from typing import Final

from pointsman.bundle import Scheme, names
from pointsman_calib.rounding import BlockFormat
from pointsman_calib.schemes.weight_only.graphs import Formats, Weight

_LONG: Final = 2048  # inputs
_INTEGERS: Final = BlockFormat(bits=8, block_size=None)


def formats_of(weight: Weight, scheme: Scheme) -> Formats:
    """How a weight is quantized under a scheme."""
    lookup = lookup_format(weight) if weight.gathered else None
    if weight.gathered and lookup is None:
        return Formats()  # one table in float serves both
    return Formats(product_format(weight, scheme) if weight.multiplied else None, lookup)


def product_format(weight: Weight, scheme: Scheme) -> BlockFormat:
    """As a factor: integers, and 4 bits only of experts.

    Experts are most of a model's bytes, and few tokens share one. Of all else, 4 bits save little, and products with
    blocks take several times as long as integer ones where many rows share them.
    """
    if scheme == "int8" or names.expert_of(weight.name) is None:
        return _INTEGERS
    # Of a long row, scales of blocks of 32 would be a fifth of all bytes.
    long = weight.inputs >= _LONG and weight.inputs % 64 == 0
    return BlockFormat(bits=4, block_size=64 if long else 32, search=True)


def lookup_format(weight: Weight) -> BlockFormat | None:
    """As a table: INT8 in blocks that divide a row, since looked-up rows are not padded; None if none does.

    What a look-up loses, no finer inputs can make up for: its blocks are small.
    """
    size = next((size for size in (32, 16) if weight.inputs % size == 0), None)
    return None if size is None else BlockFormat(bits=8, block_size=size)

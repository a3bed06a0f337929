"""Which weights a scheme quantizes, and into what."""

from typing import Final

from pointsman.bundle import Scheme, names
from pointsman_calib.rounding import BlockFormat
from pointsman_calib.schemes.weight_only.graphs import Formats, Weight

_INTEGERS: Final = BlockFormat(bits=8, block_size=None)
# With larger blocks, MatMulNBits sums an odd last row in another order than rows in pairs. With these, where a
# processor has VNNI, a row's results do not depend on the others.
_FOUR_BITS: Final = BlockFormat(bits=4, block_size=32, search=True)


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
    return _INTEGERS if scheme == "int8" or names.expert_of(weight.name) is None else _FOUR_BITS


def lookup_format(weight: Weight) -> BlockFormat | None:
    """As a table: INT8 in blocks that divide a row, since looked-up rows are not padded; None if none does.

    What a look-up loses, no finer inputs can make up for: its blocks are small.
    """
    size = next((size for size in (32, 16) if weight.inputs % size == 0), None)
    return None if size is None else BlockFormat(bits=8, block_size=size)

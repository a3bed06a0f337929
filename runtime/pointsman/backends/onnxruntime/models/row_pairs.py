"""Products with blocks of codes whose rows are never alone.

On x86 without VNNI, ONNX Runtime's `MatMulNBits` has a kernel for one row that sums in another order than the one for
several, so that a row beside others would not give what it gives alone. A row of zeros behind all others, whose result
is left out, has every row multiplied by the latter.
"""

from typing import Final

from pointsman.backends.onnxruntime.models.graphs import (
    inputs_of,
    new_integers,
    new_node,
    operator,
    output_of,
    renamed,
    rewritten,
)

PRODUCT: Final = b"MatMulNBits"
_ONE_ROW_BEHIND, _FIRST, _LAST, _ROWS = b"pairs/one_row", b"pairs/first", b"pairs/last", b"pairs/rows"


def has_block_products(model: bytes) -> bool:
    """Whether a serialized model has products with blocks of codes, or their name elsewhere."""
    return PRODUCT in model


def with_rows_in_company(model: bytes) -> bytes:
    """A serialized model with a row of zeros in each product; one of many matrices gets a row in each."""
    return rewritten(model, _in_company, shared=_shared)


def _in_company(node: bytes, branch: bool) -> bytes | None:  # noqa: ARG001, FBT001 - a `Change`
    if operator(node) != PRODUCT:
        return None
    x, *weight = inputs_of(node)
    y = output_of(node)
    padded, all_rows = y + b"/padded", y + b"/all_rows"
    nodes = (
        new_node(b"Pad", (x, _ONE_ROW_BEHIND, b"", _ROWS), padded),
        renamed(node, (padded, *weight), all_rows),
        new_node(b"Slice", (all_rows, _FIRST, _LAST, _ROWS), y),
    )
    return b"".join(nodes)


def _shared() -> bytes:
    constants = {_ONE_ROW_BEHIND: (0, 1), _FIRST: (0,), _LAST: (-1,), _ROWS: (-2,)}
    return b"".join(new_integers(name, values) for name, values in constants.items())

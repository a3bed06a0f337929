"""A checkpoint's tensors made into what the external-data file holds, while the one before is written.

Three things go on at once, each with one tensor at a time and in order: reading, converting, and what the caller does
with the result. Reading, hashing and copying leave the interpreter to the other threads.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import CheckpointError
from pointsman_export.checkpoint import NUMPY_DTYPES, TensorReader, check_finite, not_finite

if TYPE_CHECKING:
    from pointsman_export.graphs.weights import Entry

Array = NDArray[Any]
Item = TypeVar("Item")
Result = TypeVar("Result")

WIDER = {"float16": "float32 or bfloat16", "bfloat16": "float32"}
"""For each dtype, those that hold larger values."""

_BLOCK_ROWS = 128  # of a transposition: those of a block stay in the processor's cache until they are used up


def in_order(entries: Iterable["Entry"], checkpoint: TensorReader) -> Generator[tuple["Entry", str, Array], None, None]:
    """Every source tensor of every entry, as it is to be stored.

    Args:
        entries: what is to be written.
        checkpoint: read in the order of `entries`, by one thread.

    Raises:
        CheckpointError: a tensor cannot be read, is not finite, or its stored dtype cannot hold it.
    """

    def read(part: tuple["Entry", str]) -> tuple["Entry", str, Array]:
        return *part, checkpoint.read(part[1])

    def convert(part: tuple["Entry", str, Array]) -> tuple["Entry", str, Array]:
        entry, source, array = part
        return entry, source, converted(array, entry, source)

    parts = ((entry, source) for entry in entries for source in entry.sources)
    yield from _ahead(convert, _ahead(read, parts))


def _ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Results in order; a thread works on the next one while the caller uses the last."""
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(1) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                del item  # or it would outlive its result
                if len(pending) > 1:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def converted(array: Array, entry: "Entry", source: str) -> Array:
    """One source tensor as it is stored: oriented, cast, contiguous, finite. Copied once at most.

    Raises:
        CheckpointError: a value is NaN or infinite, or the stored dtype cannot hold it.
    """
    check_finite(array, source)
    dtype = NUMPY_DTYPES[entry.dtype]
    with np.errstate(over="ignore"):  # the check below names the tensor
        stored = transposed(array, dtype) if entry.transposed else np.ascontiguousarray(array, dtype)
    if array.dtype != dtype and entry.dtype in WIDER and (past := not_finite(stored)):
        raise CheckpointError(
            f"{source} has {past} values of {stored.size} that {entry.dtype} cannot hold; "
            f"export in {WIDER[entry.dtype]} (`dtype`)"
        )
    return stored


def transposed(array: Array, dtype: np.dtype[Any]) -> Array:
    """A contiguous copy of a matrix's transpose in another dtype, several times as fast as NumPy's own."""
    rows, columns = array.shape
    result = np.empty((columns, rows), dtype)
    for start in range(0, rows, _BLOCK_ROWS):
        block = array[start : start + _BLOCK_ROWS].astype(dtype, copy=False)
        result[:, start : start + _BLOCK_ROWS] = block.T
    return result

"""The two operations that every step does over the whole vocabulary: normalise, and find the best.

They are written for `[a few rows, tens of thousands of tokens]` in float32: one row at a time stays in the cache.
"""

from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import ParityError

_Scalar = TypeVar("_Scalar", bound=np.generic)

_WIDEST_BLOCK = 256
_SORTED_WHOLE = 512
"""Up to so many values, sorting all is faster than looking for those that have to be sorted."""


def checked_logits(logits: NDArray[np.float32], position: int) -> NDArray[np.float32]:
    """The logits `[rows, vocabulary]` as they came, if every row has a finite maximum.

    Raises:
        ParityError: A row has NaN or infinity for its maximum; nothing sensible can follow.
    """
    if not np.isfinite(logits.max(axis=1)).all():
        raise ParityError(
            f"the model's logits are not finite at token {position}: the engine overflowed or the bundle is damaged; "
            "try a float32 or bfloat16 variant"
        )
    return logits


def log_normalizers(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log of the summed exponentials of each row.

    Args:
        scores: `[rows, vocabulary]`, at least one finite score in each row.

    Returns:
        `[rows]`, such that `scores - log_normalizers(scores)[:, None]` is the log-softmax.
    """
    totals = np.empty(len(scores), np.float32)
    scratch = np.empty(scores.shape[1], np.float32)
    for row, row_scores in enumerate(scores):
        highest = row_scores.max()
        np.subtract(row_scores, highest, out=scratch)
        totals[row] = highest + np.log(np.exp(scratch, out=scratch).sum())
    return totals


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log-probabilities of each row `[rows, vocabulary]`, in the logits' place: new memory is dearer than the sum."""
    return np.subtract(logits, log_normalizers(logits)[:, None], out=logits)


def best_continuations(
    log_probs: NDArray[np.float32], running_scores: NDArray[np.float32], count: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """The highest sums of a beam's score and a token's log-probability, over all beams of each input.

    Only blocks whose maximum is among the `count` highest can hold one of the `count` highest scores, so the whole
    vocabulary is read once and only those blocks are sorted. Ties go to the lower beam, then the lower token.

    Args:
        log_probs: `[batch, beams, vocabulary]`.
        running_scores: `[batch, beams]`.
        count: How many; at most beams x vocabulary.

    Returns:
        Scores, beams and tokens, each `[batch, count]`, best first.
    """
    batch, beams, vocabulary = log_probs.shape
    if beams * vocabulary <= _SORTED_WHOLE:
        sums = (log_probs + running_scores[:, :, None]).reshape(batch, -1)
        flat = highest(sums, count)
        return along(sums, flat), flat // vocabulary, flat % vocabulary
    width = _block_width(vocabulary)
    blocks = log_probs.reshape(batch, beams * (vocabulary // width), width)
    offsets = np.repeat(running_scores, vocabulary // width, axis=1)  # [batch, blocks]
    # Rounding an addition keeps order, so the maximum may be taken before it.
    best_blocks = np.sort(highest(blocks.max(axis=2) + offsets, count), axis=1)
    sums = np.take_along_axis(blocks, best_blocks[:, :, None], axis=1)
    sums += along(offsets, best_blocks)[:, :, None]
    sums = sums.reshape(batch, -1)
    chosen = highest(sums, count)
    flat = along(best_blocks, chosen // width) * width + chosen % width
    return along(sums, chosen), flat // vocabulary, flat % vocabulary


def along(values: NDArray[_Scalar], columns: NDArray[np.int64]) -> NDArray[_Scalar]:
    """Of each row of `[rows, size]`, the values in these columns `[rows, any]`.

    A tenth of what NumPy's `take_along_axis` takes, which is written for any axes.
    """
    return values[np.arange(len(values))[:, None], columns]


def highest(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Indices `[batch, count]` of the highest values `[batch, size]`, best first, ties by index."""
    size = values.shape[1]
    if size <= _SORTED_WHOLE:
        return np.argsort(-values, axis=1, kind="stable")[:, :count]
    lowest = np.partition(values, size - count, axis=1)[:, size - count]
    return np.stack([_highest_from(row, least, count) for row, least in zip(values, lowest, strict=True)])


def _highest_from(values: NDArray[np.float32], least: np.float32, count: int) -> NDArray[np.int64]:
    """Indices `[count]` of the highest of `values` `[size]`, of which at least `count` reach `least`."""
    reaching = np.flatnonzero(values >= least)
    return reaching[np.argsort(-values[reaching], kind="stable")[:count]]


@lru_cache
def _block_width(vocabulary: int) -> int:
    """The widest block that divides the vocabulary evenly."""
    return next(width for width in range(_WIDEST_BLOCK, 0, -1) if vocabulary % width == 0)

"""Slots of arrays in host memory: how many there are, and how gaps between them close.

What is held lies in the first slots, so that a step sees the beginning of each array, and copies nothing.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

_FEW: Final = 4  # slots, that there are more of at least where there are too few
_PATIENCE: Final = 16
"""Steps. Copying a token's keys and values takes longer than a step takes to pass over it in vain (3 us at the size of
switch-base-8)."""


class Patience:
    """Whether memory has been far too large for so long that copying what is still needed of it costs less."""

    def __init__(self) -> None:
        self._steps = 0

    def ends(self, *, is_large: bool) -> bool:
        """Note a step; whether it is time to give some back."""
        self._steps = self._steps + 1 if is_large else 0
        is_over = self._steps > _PATIENCE
        if is_over:
            self._steps = 0
        return is_over


def gaps_closed(kept: NDArray[np.int64], slots: int) -> tuple[Iterator[tuple[int, int]], NDArray[np.int64]]:
    """How those that are kept come to lie in the first slots: the last of them move to where others were.

    Args:
        kept: int64, rising.
        slots: all that there are.

    Returns:
        what is to be copied, as pairs of target and source; and int64 [slots], the new slot of each that is kept.
    """
    movers = kept[kept >= len(kept)]
    targets = np.setdiff1d(np.arange(len(kept)), kept)
    renamed = np.arange(slots)
    renamed[movers] = targets
    return zip(targets.tolist(), movers.tolist(), strict=True), renamed


def room(slots: int, needed: int) -> int:
    """Of the first requests exactly what is needed, and then somewhat more, so that growing is rare."""
    return needed if needed <= slots or not slots else max(needed, slots + max(slots // 2, _FEW))

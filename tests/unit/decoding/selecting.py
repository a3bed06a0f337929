"""Selection as its definition has it, over any step function."""

import numpy as np
from numpy.typing import NDArray

from pointsman.decoding import StepFunction
from pointsman.selection import Selection


def selected(logits: NDArray[np.float32], named_ids: NDArray[np.int64], count: int) -> Selection:
    """What is asked for of logits `[rows, vocabulary]`."""
    rows = np.arange(len(logits))[:, None]
    others = logits.copy()
    others[rows, named_ids] = -np.inf
    best_ids = np.argsort(-others, axis=1, kind="stable")[:, :count]
    with np.errstate(invalid="ignore"):
        log_total = np.logaddexp.reduce(others.astype(np.float64), axis=1).astype(np.float32)
    return Selection(logits[rows, named_ids], best_ids, others[rows, best_ids], log_total)


class Selecting:
    """A step function that selects from another's logits, and counts how often."""

    def __init__(self, step: StepFunction, vocabulary: int, most_selected: int = 1 << 30) -> None:
        self.step, self.vocabulary, self.most_selected = step, vocabulary, most_selected
        self.selections = self.calls = 0

    def __call__(self, token_ids: NDArray[np.int64], source_rows: NDArray[np.int64]) -> NDArray[np.float32]:
        self.calls += 1
        return self.step(token_ids, source_rows)

    def select(
        self, token_ids: NDArray[np.int64], source_rows: NDArray[np.int64], named_ids: NDArray[np.int64], count: int
    ) -> Selection:
        self.selections += 1
        return selected(self.step(token_ids, source_rows), named_ids, count)

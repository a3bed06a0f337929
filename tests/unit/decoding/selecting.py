"""Selection as its definition has it, over any state."""

import numpy as np
from numpy.typing import NDArray

from pointsman.decoding import DecodingState, Selection


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
    """A state that selects from another's logits, and counts how often."""

    def __init__(self, state: DecodingState, vocabulary: int, most_selected: int = 1 << 30) -> None:
        self.state, self.vocabulary, self.most_selected = state, vocabulary, most_selected
        self.selections = self.steps = 0

    def step(self, token_ids: NDArray[np.int64], beam_rows: NDArray[np.int64]) -> NDArray[np.float32]:
        self.steps += 1
        return self.state.step(token_ids, beam_rows)

    def select(
        self, token_ids: NDArray[np.int64], beam_rows: NDArray[np.int64], named_ids: NDArray[np.int64], count: int
    ) -> Selection:
        self.selections += 1
        return selected(self.state.step(token_ids, beam_rows)[:, -1], named_ids, count)

"""What a variant makes of text: the loss of every label in a span, and the token it would have said."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import ParityError
from pointsman_calib.batches import Batch
from pointsman_calib.piecewise import PiecewiseRun


@dataclass(frozen=True, slots=True)
class Scores:
    """Of every label that is a token of a span, under teacher forcing.

    Attributes:
        losses: float64 [labels], nats.
        choices: int64 [labels], the likeliest token.
    """

    losses: NDArray[np.float64]
    choices: NDArray[np.int64]

    @property
    def loss(self) -> float:
        """The span loss: the mean."""
        return float(self.losses.mean())

    def first(self, labels: int) -> "Scores":
        """Those of so many labels."""
        return Scores(self.losses[:labels], self.choices[:labels])

    def increase_over(self, other: "Scores") -> float:
        """How much larger this loss is, as a part of the other's."""
        return self.loss / other.loss - 1

    def agreement_with(self, other: "Scores") -> float:
        """Share of labels for which both say the same."""
        return float((self.choices == other.choices).mean())

    def deviation_from(self, other: "Scores") -> float:
        """Mean squared change of a label's loss: unlike the mean loss, changes both ways do not cancel in it."""
        return float(np.square(self.losses - other.losses).mean())


def score(run: PiecewiseRun) -> Scores:
    """Run a variant over text.

    Raises:
        ParityError: the logits are not finite.
    """
    found = [_scores(values["logits"], batch) for batch, _, values in run.values({"decoder": ["logits"]})]
    return Scores(np.concatenate([each.losses for each in found]), np.concatenate([each.choices for each in found]))


def _scores(logits: NDArray[Any], batch: Batch) -> Scores:
    """Of one batch; logits are [batch, target, vocab]."""
    told = logits[batch.span_mask]  # [labels, vocab]
    if not np.isfinite(told).all():
        raise ParityError("the logits are not finite on this text; export the checkpoint again")
    labels = batch.labels[batch.span_mask]
    highest = told.max(axis=1)
    normalizers = np.log(np.exp(told - highest[:, None]).sum(axis=1, dtype=np.float64)) + highest
    losses = normalizers - told[np.arange(len(labels)), labels]
    return Scores(losses.astype(np.float64), told.argmax(axis=1))

"""What a variant makes of text: the loss of every label in a span, the token it would have said, and the experts."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman.bundle import Fidelity, names
from pointsman_calib.graphs.products import sparse_layers
from pointsman_calib.graphs.runs import PiecewiseRun
from pointsman_calib.settle.losses import token_losses


@dataclass(frozen=True, slots=True)
class Scores:
    """Of every label that is a token of a span, and of every token that is routed, under teacher forcing.

    Attributes:
        losses: float64 [labels], nats.
        choices: int64 [labels], the likeliest token.
        experts: for each router, int64 [tokens], the expert that a token goes to.
    """

    losses: NDArray[np.float64]
    choices: NDArray[np.int64]
    experts: Mapping[str, NDArray[np.int64]]

    @property
    def loss(self) -> float:
        """The span loss: the mean."""
        return float(self.losses.mean())

    def first_of(self, beginning: "Scores") -> "Scores":
        """Those of as many labels and tokens as a run over the beginning of the text has."""
        labels, experts = len(beginning.losses), beginning.experts
        routed = {name: chosen[: len(experts[name])] for name, chosen in self.experts.items()}
        return Scores(self.losses[:labels], self.choices[:labels], routed)

    def increase_over(self, other: "Scores") -> float:
        """How much larger this loss is, as a part of the other's."""
        return self.loss / other.loss - 1

    def agreement_with(self, other: "Scores") -> float:
        """Share of labels for which both say the same."""
        return float((self.choices == other.choices).mean())

    def rerouted_from(self, other: "Scores") -> float:
        """Share of tokens, over all routers, that go to another expert; 0 where there is no router."""
        moved = sum(np.count_nonzero(chosen != other.experts[name]) for name, chosen in self.experts.items())
        return moved / max(1, sum(chosen.size for chosen in self.experts.values()))

    def fidelity_to(self, exact: "Scores") -> Fidelity:
        """How near this is to the float variant's."""
        return Fidelity(
            loss_increase=self.increase_over(exact),
            agreement=self.agreement_with(exact),
            expert_agreement=1 - self.rerouted_from(exact),
        )

    def deviation_from(self, other: "Scores") -> float:
        """Mean magnitude of a label's change of loss: changes both ways count, and a single large one for little."""
        return float(np.abs(self.losses - other.losses).mean())


def score(run: PiecewiseRun) -> Scores:
    """Run a variant over text.

    Raises:
        ParityError: the logits are not finite.
    """
    routers = {role: [*map(names.expert_choice, sparse_layers(each.graph))] for role, each in run.graphs.items()}
    losses: list[NDArray[np.float64]] = []
    choices: list[NDArray[np.int64]] = []
    experts: dict[str, list[NDArray[np.int64]]] = {name: [] for each in routers.values() for name in each}
    for batch, role, values in run.values({**routers, "decoder": [*routers["decoder"], names.LOGITS]}):
        tokens = batch.tokens(role)
        for name in experts.keys() & values.keys():
            experts[name].append(values[name][tokens])
        if names.LOGITS in values:
            logits = values[names.LOGITS][batch.span_mask]  # [labels, vocab]
            losses.append(token_losses(logits, batch.labels[batch.span_mask]))
            choices.append(logits.argmax(axis=1))
        del values
    routed = {name: np.concatenate(found) for name, found in experts.items()}
    return Scores(np.concatenate(losses), np.concatenate(choices), routed)

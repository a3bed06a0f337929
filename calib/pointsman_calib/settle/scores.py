"""What a variant makes of text: the loss of every label in a span, the token it would have said, and the experts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pointsman.bundle import Fidelity, Role, names
from pointsman_calib.corpus.batches import Batch
from pointsman_calib.graphs.pieces import Values
from pointsman_calib.graphs.products import sparse_layers
from pointsman_calib.graphs.runs import PiecewiseRun
from pointsman_calib.settle.losses import token_losses

_Kind = TypeVar("_Kind", np.float64, np.int64)


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


class Tally:
    """Scores while batches come in, in any order; each document's are kept by its place in the text."""

    def __init__(self, routers: Iterable[str]) -> None:
        self._losses: dict[int, NDArray[np.float64]] = {}
        self._choices: dict[int, NDArray[np.int64]] = {}
        self._experts: dict[str, dict[int, NDArray[np.int64]]] = {name: {} for name in routers}

    def add(self, batch: Batch, role: Role, values: Values) -> None:
        """Take what a piece of a graph gives of a batch into account.

        Raises:
            ParityError: the logits are not finite.
        """
        tokens = batch.tokens(role)
        for row, place in enumerate(batch.places.tolist()):
            for name in self._experts.keys() & values.keys():
                self._experts[name][place] = values[name][row][tokens[row]]
            if names.LOGITS in values:
                spans = batch.span_mask[row]
                logits = values[names.LOGITS][row][spans]  # [labels, vocab]
                self._losses[place] = token_losses(logits, batch.labels[row][spans])
                self._choices[place] = logits.argmax(axis=1)

    def branch(self) -> "Tally":
        """Another that goes on from here."""
        tally = Tally(())
        tally._experts = {name: dict(found) for name, found in self._experts.items()}
        return tally

    def scores(self) -> Scores:
        """Of all documents, in their order."""
        experts = {name: _in_order(found) for name, found in self._experts.items()}
        return Scores(_in_order(self._losses), _in_order(self._choices), experts)


def _in_order(found: Mapping[int, NDArray[_Kind]]) -> NDArray[_Kind]:
    return np.concatenate([found[place] for place in sorted(found)])


def scored_values(run: PiecewiseRun) -> dict[Role, list[str]]:
    """The values that scores are made of, of each graph: every router's choices, and the logits."""
    routers = {role: [*map(names.expert_choice, sparse_layers(each.graph))] for role, each in run.graphs.items()}
    return {**routers, "decoder": [*routers["decoder"], names.LOGITS]}


def empty_tally(run: PiecewiseRun) -> Tally:
    """One for a run of `scored_values`."""
    return Tally(name for found in scored_values(run).values() for name in found if name != names.LOGITS)


def score(run: PiecewiseRun) -> Scores:
    """Run a variant over text.

    Raises:
        ParityError: the logits are not finite.
    """
    tally = empty_tally(run)
    for batch, role, values in run.values(scored_values(run)):
        tally.add(batch, role, values)
        del values
    return tally.scores()

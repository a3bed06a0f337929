"""What is kept in float, by measurement: the layers whose quantization costs most, until the limits hold.

Single layers move the C4 loss by less than its own noise, in either direction. So a layer is judged by what keeping it
in float takes off the mean magnitude of the labels' changes of loss, in which changes both ways count; the limits are
of the loss itself, and of agreement. Squares would count little but the one label that follows a token to another
expert. Where too many tokens go to other experts, this is mended first, by the layers that bring most of them back:
those before a router, which need not be those that move the loss.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from pointsman.bundle import Sensitivity, names
from pointsman.errors import OptionsError
from pointsman_calib.settle.limits import Limits
from pointsman_calib.settle.ranking import Branches
from pointsman_calib.settle.scores import Scores

_STEPS: Final = 8  # from keeping nothing to keeping everything, where little text asked for too little or too much


@dataclass(frozen=True, slots=True)
class Kept:
    """What keeps its precision, or some of it.

    Attributes:
        inputs: weights that are quantized, and whose inputs keep more precision than the scheme gives them.
        weights: weights that stay in float32, as their inputs do.
    """

    inputs: frozenset[str] = frozenset()
    weights: frozenset[str] = frozenset()

    def __or__(self, other: "Kept") -> "Kept":
        """What either keeps."""
        weights = self.weights | other.weights
        return Kept((self.inputs | other.inputs) - weights, weights)


class Draft(Protocol):
    """A variant in the making."""

    @property
    def quantizable(self) -> Iterable[str]:
        """Names of the weights that its scheme quantizes."""
        ...

    def write(self, kept: Kept) -> None:
        """Write the variant anew, with this kept."""
        ...


@dataclass(frozen=True, slots=True)
class Settled:
    """What was decided.

    Attributes:
        kept: what the limits needed.
        costs: for each layer, what keeping its inputs took off the mean magnitude of the labels' changes of loss, the
            costliest first; empty where the limits held at once.
        rerouted: for each layer, what keeping its inputs took off the share of tokens that go to another expert, the
            largest first; empty likewise.
        scores: of the variant.
        without: of the variant that keeps nothing.
    """

    kept: Kept
    costs: dict[str, float]
    rerouted: dict[str, float]
    scores: Scores
    without: Scores


@dataclass(frozen=True, slots=True)
class Trials:
    """Runs of a draft over the calibration text, again and again.

    Attributes:
        judging: scores the draft on the part of it that limits are checked on.
        trying: scores it on the beginning of that part, to see about how much must be kept; the same as `judging` where
            that part is short.
        ranking: ranks the layers of the draft on the beginning of that part; it is written anew meanwhile.
        exact: the float variant's, on the part that limits are checked on.
    """

    judging: Callable[[], Scores]
    trying: Callable[[], Scores]
    ranking: Callable[[Draft], Branches]
    exact: Scores


def settle(draft: Draft, limits: Limits, trials: Trials) -> Settled:
    """Keep what must be, first for routes and then for all: inputs of the costliest layers, and if need be the layers.

    Args:
        draft: as it is with nothing kept; it is left as it was decided.
        limits: what to reach. With everything kept, any limits hold.
        trials: of the draft.

    Raises:
        OptionsError: they hold only with everything kept.
    """
    scores = trials.judging()
    found = Settled(Kept(), {}, {}, scores, scores)
    if limits.hold(found.scores, trials.exact):
        return found
    layers = layers_of(draft.quantizable)
    costs, rerouted = _costs(trials.ranking(draft), trials.exact)
    found = replace(found, costs=costs, rerouted=rerouted)
    for ranked, holds in ((rerouted, limits.hold_routes), (costs, limits.hold)):
        if not holds(found.scores, trials.exact):
            choices = [found.kept | _first(layers, list(ranked), count) for count in range(2 * len(layers) + 1)]
            held, scores = _fewest(draft, choices, holds, trials)
            found = replace(found, kept=choices[held], scores=scores)
    if found.kept.weights.issuperset(draft.quantizable):
        raise OptionsError(
            "no layer can be quantized within these limits; loosen `max_loss_increase`, `min_agreement` or "
            "`min_expert_agreement`"
        )
    return found


def measured(settled: Settled, nearest: Scores, exact: Scores) -> Sensitivity:
    """What a manifest says of it; `nearest` are the scores with all rounded to nearest and nothing kept."""
    return Sensitivity(
        labels=len(exact.losses),
        loss=exact.loss,
        reached=settled.scores.fidelity_to(exact),
        nearest=nearest.fidelity_to(exact),
        costs=settled.costs,
        rerouted=settled.rerouted,
        fine_inputs=tuple(sorted(settled.kept.inputs)),
        float_weights=tuple(sorted(settled.kept.weights)),
    )


def layers_of(weights: Iterable[str]) -> dict[str, frozenset[str]]:
    """Weights by the block that they belong to; those of no block, embedding and head, are a layer of their own."""
    layers: dict[str, set[str]] = {}
    for weight in weights:
        block = names.block_of(weight)
        layers.setdefault(weight if block is None else names.block_path(*block), set()).add(weight)
    return {layer: frozenset(found) for layer, found in layers.items()}


def _costs(branches: Branches, whole: Scores) -> tuple[dict[str, float], dict[str, float]]:
    """What keeping each layer's inputs gains, of losses and of routes, the largest first."""
    without, exact = branches.without, whole.first_of(branches.without)
    deviation, rerouted = without.deviation_from(exact), without.rerouted_from(exact)
    losses = {layer: deviation - found.deviation_from(exact) for layer, found in branches.kept.items()}
    routes = {layer: rerouted - found.rerouted_from(exact) for layer, found in branches.kept.items()}
    return _descending(losses), _descending(routes)


def _descending(gains: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(gains.items(), key=lambda item: -item[1]))


def _first(layers: Mapping[str, frozenset[str]], ranked: Sequence[str], count: int) -> Kept:
    """The first `count` of all steps: the inputs of each layer in turn, then each layer's weights."""
    inputs: frozenset[str] = frozenset().union(*(layers[layer] for layer in ranked[:count]))
    weights: frozenset[str] = frozenset().union(*(layers[layer] for layer in ranked[: max(0, count - len(ranked))]))
    return Kept(inputs - weights, weights)


def _fewest(
    draft: Draft, choices: Sequence[Kept], holds: Callable[[Scores, Scores], bool], trials: Trials
) -> tuple[int, Scores]:
    """About the first choice that holds: the first does not, and the last, which keeps all, does.

    It is looked for by bisection on little text. From there on it is looked for on all of it, by steps of an eighth of
    all that can be kept: less while that holds, or more until that does.
    """
    search = _Search(draft, choices, holds, trials.exact)
    held, scores = search.bisected(trials.trying)
    if trials.trying is not trials.judging:
        held, scores = search.stepped(trials.judging, held)
    draft.write(choices[held])
    return held, scores


@dataclass(frozen=True, slots=True)
class _Search:
    """Choices of which each keeps more than the one before, tried by number."""

    draft: Draft
    choices: Sequence[Kept]
    holds: Callable[[Scores, Scores], bool]
    exact: Scores

    def scored(self, run: Callable[[], Scores], number: int) -> tuple[bool, Scores]:
        """Whether a choice holds on the text of a run, and its scores."""
        self.draft.write(self.choices[number])
        found = run()
        return self.holds(found, self.exact.first_of(found)), found

    def bisected(self, run: Callable[[], Scores]) -> tuple[int, Scores]:
        """The first choice that holds on the text of a run, and its scores."""
        fails, held, scores = 0, len(self.choices) - 1, self.exact
        while held - fails > 1:
            middle = (fails + held) // 2
            right, found = self.scored(run, middle)
            if right:
                held, scores = middle, found
            else:
                fails = middle
        return held, scores

    def stepped(self, run: Callable[[], Scores], guess: int) -> tuple[int, Scores]:
        """From a guess, down while choices hold on the text of a run, or up until one does; it, and its scores."""
        last = len(self.choices) - 1
        step = max(1, last // _STEPS)
        held, scores = last, self.exact
        for number in range(guess, last, step):
            right, found = self.scored(run, number)
            if right:
                held, scores = number, found
                break
        if held == guess:
            for number in range(guess - step, 0, -step):
                right, found = self.scored(run, number)
                if not right:
                    break
                held, scores = number, found
        return held, scores

"""What is kept in float, by measurement: the layers whose quantization costs most, until the limits hold.

Single layers move the C4 loss by less than its own noise, in either direction. So a layer is judged by what keeping it
in float takes off the mean magnitude of the labels' changes of loss, in which changes both ways count; the limits are
of the loss itself, and of agreement. Squares would count little but the one label that follows a token to another
expert. Where too many tokens go to other experts, this is mended first, by the layers that bring most of them back:
those before a router, which need not be those that move the loss.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn, Protocol

from tqdm import tqdm

from pointsman.bundle import Sensitivity, names
from pointsman.errors import OptionsError
from pointsman_calib.settle.limits import Limits
from pointsman_calib.settle.scores import Scores


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
        judging: scores a draft on the part of it that limits are checked on.
        ranking: scores a draft on the beginning of that part, which layers are ranked on.
        exact: the float variant's, on the part that limits are checked on.
    """

    judging: Callable[[], Scores]
    ranking: Callable[[], Scores]
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
    with tqdm(desc="sensitivity", unit=" runs", disable=None) as bar:
        scores = _scored(trials.judging, bar)
        found = Settled(Kept(), {}, {}, scores, scores)
        if limits.hold(found.scores, trials.exact):
            return found
        layers = layers_of(draft.quantizable)
        costs, rerouted = _costs(draft, layers, trials, bar)
        found = replace(found, costs=costs, rerouted=rerouted)
        for ranked, holds in ((rerouted, limits.hold_routes), (costs, limits.hold)):
            if not holds(found.scores, trials.exact):
                choices = [found.kept | _first(layers, list(ranked), count) for count in range(2 * len(layers) + 1)]
                held, scores = _fewest(draft, choices, holds, trials, bar)
                found = replace(found, kept=choices[held], scores=scores)
    if found.kept.weights.issuperset(draft.quantizable):
        raise OptionsError(
            "no layer can be quantized within these limits; loosen --max-loss-increase, --min-agreement or "
            "--min-expert-agreement"
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


def _costs(
    draft: Draft, layers: Mapping[str, frozenset[str]], trials: Trials, bar: "tqdm[NoReturn]"
) -> tuple[dict[str, float], dict[str, float]]:
    """What keeping each layer's inputs gains, of losses and of routes, the largest first."""

    def scored(kept: Kept) -> Scores:
        draft.write(kept)
        return _scored(trials.ranking, bar)

    without = scored(Kept())
    exact = trials.exact.first_of(without)
    losses, routes = {}, {}
    for layer, weights in layers.items():
        found = scored(Kept(inputs=weights))
        losses[layer] = without.deviation_from(exact) - found.deviation_from(exact)
        routes[layer] = without.rerouted_from(exact) - found.rerouted_from(exact)
    return _descending(losses), _descending(routes)


def _descending(gains: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(gains.items(), key=lambda item: -item[1]))


def _first(layers: Mapping[str, frozenset[str]], ranked: Sequence[str], count: int) -> Kept:
    """The first `count` of all steps: the inputs of each layer in turn, then each layer's weights."""
    inputs: frozenset[str] = frozenset().union(*(layers[layer] for layer in ranked[:count]))
    weights: frozenset[str] = frozenset().union(*(layers[layer] for layer in ranked[: max(0, count - len(ranked))]))
    return Kept(inputs - weights, weights)


def _fewest(
    draft: Draft,
    choices: Sequence[Kept],
    holds: Callable[[Scores, Scores], bool],
    trials: Trials,
    bar: "tqdm[NoReturn]",
) -> tuple[int, Scores]:
    """The first choice that holds, by bisection: the first does not, and the last, which keeps all, does."""
    fails, held, scores = 0, len(choices) - 1, trials.exact
    while held - fails > 1:
        middle = (fails + held) // 2
        draft.write(choices[middle])
        found = _scored(trials.judging, bar)
        if holds(found, trials.exact):
            held, scores = middle, found
        else:
            fails = middle
    draft.write(choices[held])
    return held, scores


def _scored(run: Callable[[], Scores], bar: "tqdm[NoReturn]") -> Scores:
    bar.update()
    return run()

"""The page's figures: a plot each, what it shows in words, and its numbers as a table."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from pointsman.bundle import Role
from pointsman_calib.comparison.records import CalibratedExperts, CandidateResult, Comparison, LayerCoverage
from pointsman_calib.report.cost_plot import cost_plot
from pointsman_calib.report.heat_map import heat_map, per_column
from pointsman_calib.report.line_plot import Figures, Group, line_plot
from pointsman_calib.report.markup import Markup, element
from pointsman_calib.report.tables import table

Table = tuple[Sequence[str], Sequence[Sequence[str]]]

_ROLES: tuple[Role, ...] = ("encoder", "decoder")


def figures(comparison: Comparison) -> Iterator[Markup]:
    """Those that something was measured for."""
    measured = [candidate for candidate in comparison.candidates if not candidate.variant.non_finite]
    yield from _cost(comparison)
    if any(candidate.layers for candidate in measured):
        yield from _layers(measured)
    if measured:
        yield from _steps(measured)
    if comparison.baseline.coverage:
        yield from _experts(comparison, measured)


def _cost(comparison: Comparison) -> Iterator[Markup]:
    yield element("h2", "Loss by variant, with size and speed")
    yield _figure(
        "Points with 95 % intervals. The loss itself varies with the documents; the increase is paired by document, "
        "so its interval is narrower. A dashed line is the limit.",
        cost_plot(comparison),
    )


def _layers(candidates: Sequence[CandidateResult]) -> Iterator[Markup]:
    yield element("h2", "Error by layer")
    names = [tensor.name for tensor in candidates[0].layers]
    series = {found.variant.name: [tensor.sqnr_db for tensor in found.layers] for found in candidates}
    left_out = _beyond_scale(candidates)
    yield _figure(
        "Signal to quantization noise of the residual stream after each block, in dB: higher is nearer to the "
        f"baseline. A block where nothing differs has no mark.{_only_numbers(left_out)}",
        line_plot(_by_stack(names, series), "Signal to noise of the residual stream after each block", "dB", left_out),
        _table("after", names, series, "{:.1f}".format, "equal"),
    )


def _steps(candidates: Sequence[CandidateResult]) -> Iterator[Markup]:
    yield element("h2", "Error by decoder step")
    labels = [str(step) for step in range(1, 1 + len(candidates[0].steps))]
    series = {found.variant.name: found.steps for found in candidates}
    left_out = _beyond_scale(candidates)
    yield _figure(
        "Signal to quantization noise of the logits of each step under teacher forcing, in dB. Few documents reach "
        f"the last steps.{_only_numbers(left_out)}",
        line_plot(
            [Group("decoder step", labels, series)], "Signal to noise of the logits of each step", "dB", left_out
        ),
        _table("step", labels, series, "{:.1f}".format, "equal"),
    )


def _beyond_scale(candidates: Sequence[CandidateResult]) -> list[str]:
    """Float variants, where others are there: a hundred decibels more would press the others' lines together."""
    names = [found.variant.name for found in candidates if found.variant.rounding is None]
    return names if len(names) < len(candidates) else []


def _only_numbers(left_out: Sequence[str]) -> str:
    return f" Far above, and so among the numbers only: {', '.join(left_out)}." if left_out else ""


def _experts(comparison: Comparison, candidates: Sequence[CandidateResult]) -> Iterator[Markup]:
    yield element("h2", "Experts")
    if candidates:
        yield _router_agreement(comparison, candidates)
    name, coverage = comparison.baseline.name, comparison.baseline.coverage
    yield _coverage(f"Coverage: the share of each sparse layer's tokens that {name} gives to", coverage)
    for candidate in comparison.candidates:
        if (seen := candidate.variant.calibrated_experts) is not None:
            yield _calibration_coverage(candidate.variant.name, seen)


def _router_agreement(comparison: Comparison, candidates: Sequence[CandidateResult]) -> Markup:
    names = [layer.layer for layer in comparison.baseline.coverage]
    series = {found.variant.name: [100 * layer.share for layer in found.experts] for found in candidates}
    return _figure(
        "Share of tokens that each sparse layer's router sends to the baseline's expert.",
        line_plot(_by_stack(names, series), "Agreement of each sparse layer's router with the baseline's", "%"),
        _table("layer", names, series, "{:.3f} %".format, "-"),
    )


def _calibration_coverage(name: str, seen: CalibratedExperts) -> Markup:
    experts = sum(len(layer.tokens) for layer in seen.coverage)
    return _coverage(
        f"Calibration of {name}: {seen.thin} of {experts} experts were given fewer than {seen.fewest_tokens} tokens "
        f"and so {seen.instead}. Below, the share of each sparse layer's tokens that was given to",
        seen.coverage,
    )


def _coverage(words: str, coverage: Sequence[LayerCoverage]) -> Markup:
    width = per_column(len(coverage[0].tokens))
    experts = "each expert" if width == 1 else f"each {width} neighbouring experts"
    rows = [
        (found.layer, *map(str, (sum(found.tokens), found.tokens.count(0), min(found.tokens), max(found.tokens))))
        for found in coverage
    ]
    return _figure(
        f"{words} {experts}; stronger is more, dashed is none.",
        heat_map(coverage),
        (("layer", "tokens", "experts without tokens", "fewest", "most"), rows),
    )


def _by_stack(names: Sequence[str], series: Mapping[str, Figures]) -> list[Group]:
    """Figures of blocks, `encoder.block.0` and so on, as a group for each stack."""
    groups = []
    for role in _ROLES:
        places = [place for place, name in enumerate(names) if name.startswith(role)]
        if places:
            labels = [names[place].rpartition(".")[2] for place in places]
            own = {variant: [line[place] for place in places] for variant, line in series.items()}
            groups.append(Group(f"{role} block", labels, own))
    return groups


def _table(
    first: str, labels: Sequence[str], series: Mapping[str, Figures], shown: Callable[[float], str], none: str
) -> Table:
    rows = zip(labels, *([none if n is None else shown(n) for n in line] for line in series.values()), strict=True)
    return (first, *series), list(rows)


def _figure(caption: str, plot: Markup, numbers: Table | None = None) -> Markup:
    details = [] if numbers is None else [element("details", element("summary", "Numbers"), table(*numbers))]
    return element("figure", element("figcaption", caption), element("div", plot, class_="wide"), *details)

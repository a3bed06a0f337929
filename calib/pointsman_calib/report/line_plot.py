"""Figures by layer, or by decoder step: one line for each variant."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pointsman_calib.report.axes import Axis
from pointsman_calib.report.drawing import drawing, legend, marker, polyline, text, vertical_axis
from pointsman_calib.report.markup import Markup, joined

_WIDTH, _HEIGHT = 960.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 60.0, 950.0, 60.0, 250.0
_GAP: Final = 30.0  # between groups
_FEWEST_APART: Final = 24.0  # units that a label below the axis needs
_MOST_MARKED: Final = 60  # points of a line that have a mark each

Figures = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbours on the horizontal axis.

    Attributes:
        name: below them.
        labels: of each.
        series: a figure for each, by variant; None where there is none.
    """

    name: str
    labels: Sequence[str]
    series: Mapping[str, Figures]


def line_plot(groups: Sequence[Group], label: str, unit: str, left_out: Collection[str] = ()) -> Markup:
    """One line for each variant in each group.

    Args:
        groups: from left to right; all of the same variants.
        label: what a screen reader says.
        unit: of the figures.
        left_out: variants that are not drawn; the others keep their marks.
    """
    series = {name: number for number, name in enumerate(groups[0].series) if name not in left_out}
    figures = [figure for group in groups for name in series for figure in group.series[name] if figure is not None]
    vertical = Axis.around(figures, _BOTTOM, _TOP, ticks=5)
    return drawing(
        _WIDTH,
        _HEIGHT,
        label,
        legend(series, _LEFT, 18),
        text(_LEFT - 50, 44, unit, class_="panel"),
        vertical_axis(vertical, _LEFT, _RIGHT),
        *(_group(group, series, left, right, vertical) for group, left, right in _side_by_side(groups)),
    )


def _side_by_side(groups: Sequence[Group]) -> Iterator[tuple[Group, float, float]]:
    """Each group with where it begins and ends, as wide as it has members."""
    each = (_RIGHT - _LEFT - _GAP * (len(groups) - 1)) / sum(len(group.labels) for group in groups)
    left = _LEFT
    for group in groups:
        right = left + each * len(group.labels)
        yield group, left, right
        left = right + _GAP


def _group(group: Group, series: Mapping[str, int], left: float, right: float, vertical: Axis) -> Markup:
    each = (right - left) / len(group.labels)
    places = [left + each * (number + 0.5) for number in range(len(group.labels))]
    every = math.ceil(_FEWEST_APART / each)
    labelled = list(zip(places, group.labels, strict=True))[::every]
    parts = [text(place, _BOTTOM + 18, words, anchor="middle") for place, words in labelled]
    parts.append(text((left + right) / 2, _BOTTOM + 38, group.name, anchor="middle", class_="panel"))
    for name, number in series.items():
        parts += _line(number, name, group.labels, places, group.series[name], vertical)
    return joined(*parts)


def _line(
    series: int, name: str, labels: Sequence[str], places: Sequence[float], figures: Figures, vertical: Axis
) -> Iterator[Markup]:
    known = [
        (place, vertical(figure), f"{name}, {label}: {figure:.4g}")
        for place, label, figure in zip(places, labels, figures, strict=True)
        if figure is not None
    ]
    yield polyline([(x, y) for x, y, _ in known], series)
    if len(figures) <= _MOST_MARKED:
        yield from (marker(x, y, series, hint) for x, y, hint in known)

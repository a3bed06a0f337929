"""What all plots are drawn with. Colours are classes, so that the page's style decides them, in the dark too."""

import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from pointsman_calib.report.axes import Axis
from pointsman_calib.report.markup import Markup, element, joined

SERIES: Final = 6
"""Series that the style knows colours and dashes for; more of them begin anew, each with the next one's shape."""

_TICK_LETTER: Final = 6.2  # width of a tick's digit
_SHAPES: Final = (
    ((-3.5, -3.5), (3.5, -3.5), (3.5, 3.5), (-3.5, 3.5)),
    ((0.0, -5.0), (5.0, 0.0), (0.0, 5.0), (-5.0, 0.0)),
    ((0.0, -4.5), (4.5, 3.5), (-4.5, 3.5)),
    ((0.0, 4.5), (-4.5, -3.5), (4.5, -3.5)),
    ((-5.0, -2.0), (5.0, -2.0), (5.0, 2.0), (-5.0, 2.0)),
)
"""Corners of marks around their middle: square, diamond, triangles up and down, bar. The first mark is a circle."""

Anchor = Literal["start", "middle", "end"]


def drawing(width: float, height: float, label: str, *parts: Markup) -> Markup:
    """A plot; the label is what a screen reader says."""
    view = f"0 0 {width:g} {height:g}"
    return element("svg", element("title", label), *parts, viewBox=view, role="img", aria_label=label)


def text(x: float, y: float, words: str, *, anchor: Anchor = "start", class_: str = "tick") -> Markup:
    """A line of text, its baseline at `y`."""
    return element("text", words, x=x, y=y, text_anchor=anchor, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def marker(x: float, y: float, series: int, hint: str) -> Markup:
    """A mark of a series, or of none (-1); the hint is shown where a pointer rests."""
    name = f"mark s{series % SERIES}" if series >= 0 else "mark"
    title = element("title", hint)
    shape = (series + series // SERIES) % SERIES if series >= 0 else 0
    if shape == 0:
        return element("circle", title, cx=x, cy=y, r=4, class_=name)
    corners = " ".join(f"{x + right:.1f},{y + down:.1f}" for right, down in _SHAPES[shape - 1])
    return element("polygon", title, points=corners, class_=name)


def polyline(points: Sequence[tuple[float, float]], series: int) -> Markup:
    """A series' line."""
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return element("polyline", points=places, class_=f"line s{series % SERIES}")


def legend(series: Mapping[str, int], x: float, y: float) -> Markup:
    """Each series' line, mark and name, side by side."""
    parts = []
    for name, number in series.items():
        parts += [polyline([(x - 14, y - 4), (x + 14, y - 4)], number), marker(x, y - 4, number, name)]
        parts.append(text(x + 20, y, name, class_="name"))
        x += 54 + 7.2 * len(name)
    return joined(*parts)


def horizontal_axis(axis: Axis, top: float, bottom: float) -> Markup:
    """Ticks of an axis from left to right, with a line from `top` to `bottom` at each; labels stand well apart."""
    parts = [line(axis(tick), top, axis(tick), bottom, "grid") for tick in axis.ticks]
    widest = _TICK_LETTER * max(len(axis.label(tick)) for tick in axis.ticks)
    every = math.ceil((widest + 10) / (axis(axis.ticks[1]) - axis(axis.ticks[0])))
    parts += [text(axis(tick), bottom + 16, axis.label(tick), anchor="middle") for tick in axis.ticks[::every]]
    return joined(*parts)


def vertical_axis(axis: Axis, left: float, right: float) -> Markup:
    """Ticks of an axis from bottom to top, with a line from `left` to `right` at each."""
    parts = []
    for tick in axis.ticks:
        parts += [
            line(left, axis(tick), right, axis(tick), "grid"),
            text(left - 8, axis(tick) + 4, axis.label(tick), anchor="end"),
        ]
    return joined(*parts)

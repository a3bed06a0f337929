"""What all plots are drawn with. Colours are classes, so that the page's style decides them, in the dark too."""

from collections.abc import Sequence
from typing import Final, Literal

from pointsman_calib.report.axes import Axis
from pointsman_calib.report.markup import Markup, element, joined

SERIES: Final = 6
"""Series that the style knows colours for; more of them begin anew, with the other shape."""

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
    if (series + series // SERIES) % 2 == 0:
        return element("circle", title, cx=x, cy=y, r=4, class_=name)
    return element("rect", title, x=x - 3.5, y=y - 3.5, width=7, height=7, class_=name)


def polyline(points: Sequence[tuple[float, float]], series: int) -> Markup:
    """A series' line."""
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return element("polyline", points=places, class_=f"line s{series % SERIES}")


def legend(names: Sequence[str], x: float, y: float) -> Markup:
    """Each series' mark and name, side by side."""
    parts = []
    for series, name in enumerate(names):
        parts += [marker(x, y - 4, series, name), text(x + 10, y, name, class_="name")]
        x += 34 + 7.2 * len(name)
    return joined(*parts)


def horizontal_axis(axis: Axis, top: float, bottom: float) -> Markup:
    """Ticks of an axis from left to right, with a line from `top` to `bottom` at each."""
    parts = []
    for tick in axis.ticks:
        parts += [
            line(axis(tick), top, axis(tick), bottom, "grid"),
            text(axis(tick), bottom + 16, axis.label(tick), anchor="middle"),
        ]
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

"""Plots that a page can show: drawings of the calibrator's report as documents that carry their style."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from pointsman_calib.report.drawing import drawing, text
from pointsman_calib.report.markup import Markup, element, joined

_WIDTH, _NAMES, _PANEL, _GAP, _NUMBER = 960.0, 170.0, 110.0, 10.0, 38.0
_TOP, _BAR, _BETWEEN = 50.0, 13.0, 12.0


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars that are compared with each other.

    Attributes:
        title: above them.
        bars: for each machine, of each row an amount; None where there is none.
    """

    title: str
    bars: Mapping[str, Sequence[float | None]]


def document(plot: Markup) -> str:
    """An SVG file: a page shows it as an image, which no style of the page reaches."""
    rules = (files("pointsman_calib.report") / "style.css").read_text(encoding="utf-8")
    style = f"<style>{rules} svg {{ background: var(--page); }}</style>"
    opening, rest = plot.split(">", 1)
    return f"{opening.replace('<svg', _ROOT, 1)}>{style}{rest}\n"


_ROOT = '<svg xmlns="http://www.w3.org/2000/svg"'


def bar_plot(rows: Sequence[str], panels: Sequence[Panel], label: str) -> Markup:
    """One row for each name, and in each panel a bar for each machine, with its number.

    Args:
        rows: names, from top to bottom.
        panels: side by side; all of the same machines.
        label: what a screen reader says.
    """
    machines = list(panels[0].bars)
    each = _BAR * len(machines) + _BETWEEN
    middle = (each - _BETWEEN) / 2 + 3
    names = [text(0, _TOP + each * row + middle, name, class_="name") for row, name in enumerate(rows)]
    shown = [_panel(panel, _NAMES + number * (_PANEL + _NUMBER + _GAP), each) for number, panel in enumerate(panels)]
    return drawing(_WIDTH, _TOP + each * len(rows), label, _legend(machines), *names, *shown)


def _legend(machines: Sequence[str]) -> Markup:
    parts = []
    for number, machine in enumerate(machines):
        left = _NAMES + 200.0 * number
        parts += [_bar(left, 6.0, 14.0, number, machine), text(left + 20, 17, machine, class_="name")]
    return joined(*parts)


def _panel(panel: Panel, left: float, each: float) -> Markup:
    most = max((amount for bars in panel.bars.values() for amount in bars if amount is not None), default=1.0)
    parts = [text(left, _TOP - 10, panel.title, class_="panel")]
    for number, (machine, amounts) in enumerate(panel.bars.items()):
        for row, amount in enumerate(amounts):
            if amount is not None:
                top, width = _TOP + each * row + _BAR * number, _PANEL * amount / most
                parts.append(_bar(left, top, width, number, f"{machine}: {amount:.2f}"))
                parts.append(text(left + width + 4, top + _BAR - 3, f"{amount:.1f}×"))
    return joined(*parts)


def _bar(left: float, top: float, width: float, series: int, hint: str) -> Markup:
    shape = {"x": left, "y": top, "width": width, "height": _BAR - 2.0}
    return element("rect", element("title", hint), **shape, class_=f"mark s{series}")

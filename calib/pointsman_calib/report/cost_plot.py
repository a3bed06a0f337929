"""Loss by variant, with what it was paid for beside it: increase over the baseline, size, speed."""

from collections.abc import Iterator, Sequence
from typing import Final

from pointsman_calib.comparison.records import Comparison, Interval
from pointsman_calib.report.axes import Axis
from pointsman_calib.report.drawing import drawing, horizontal_axis, line, marker, text
from pointsman_calib.report.markup import Markup, element, joined

_WIDTH: Final = 960.0
_TOP, _ROW, _BOTTOM = 30.0, 30.0, 26.0
_LOSS, _INCREASE, _SIZE, _SPEED = (170.0, 370.0), (420.0, 620.0), (660.0, 750.0), (830.0, 910.0)
"""Left and right end of each panel; bars leave room for their numbers, and axes for half a label at either end."""


def cost_plot(comparison: Comparison) -> Markup:
    """One row for each variant, the baseline first, and four panels."""
    variants = comparison.variants
    bottom = _TOP + _ROW * len(variants)
    increases = [None, *(candidate.loss_increase for candidate in comparison.candidates)]
    return drawing(
        _WIDTH,
        bottom + _BOTTOM,
        "Loss, increase of the loss, size and speed of each variant",
        *(text(0, _middle(row) + 4, variant.name, class_="name") for row, variant in enumerate(variants)),
        _intervals("loss, nats per span token", _LOSS, [variant.loss for variant in variants], bottom),
        _intervals(
            "increase, %", _INCREASE, increases, bottom, always=(0.0,), limit=comparison.limits.max_loss_increase
        ),
        _bars("size, MB", _SIZE, [variant.bytes / 1e6 for variant in variants]),
        _bars(
            "ms per token",
            _SPEED,
            [None if variant.speed is None else variant.speed.ms_per_token for variant in variants],
        ),
    )


def _middle(row: int) -> float:
    return _TOP + _ROW * (row + 0.5)


def _intervals(
    title: str,
    panel: tuple[float, float],
    intervals: Sequence[Interval | None],
    bottom: float,
    *,
    always: Sequence[float] = (),
    limit: float | None = None,
) -> Markup:
    """Estimates with their intervals, and a line at the limit."""
    marks = [*always, *([] if limit is None else [limit])]
    drawn = [number for interval in intervals if interval is not None for number in _numbers(interval)]
    axis = Axis.around([*drawn, *marks], *panel, ticks=4)
    parts = [text(panel[0], _TOP - 14, title, class_="panel"), horizontal_axis(axis, _TOP, bottom)]
    if limit is not None:
        parts.append(line(axis(limit), _TOP, axis(limit), bottom, "limit"))
    for row, interval in enumerate(intervals):
        if interval is not None:
            parts += _interval(axis, _middle(row), interval, row - 1)
    return joined(*parts)


def _numbers(interval: Interval) -> Iterator[float]:
    """All that is drawn of one."""
    yield from (number for number in (interval.low, interval.value, interval.high) if number is not None)


def _interval(axis: Axis, y: float, interval: Interval, series: int) -> Iterator[Markup]:
    """A candidate has the mark that it has in the other plots; the baseline, number -1, is in none."""
    hint = f"{interval.value:.4f}"
    if interval.low is not None and interval.high is not None:
        yield line(axis(interval.low), y, axis(interval.high), y, "whisker")
        hint += f", from {interval.low:.4f} to {interval.high:.4f}"
    yield marker(axis(interval.value), y, series, hint)


def _bars(title: str, panel: tuple[float, float], amounts: Sequence[float | None]) -> Markup:
    """Bars from zero, each with its number."""
    left, right = panel
    most = max((amount for amount in amounts if amount is not None), default=1.0)
    parts = [text(left, _TOP - 14, title, class_="panel")]
    for row, amount in enumerate(amounts):
        if amount is not None:
            width = (right - left) * amount / most
            parts += [
                element("rect", x=left, y=_middle(row) - 7, width=width, height=14, class_="bar"),
                text(left + width + 6, _middle(row) + 4, f"{amount:,.2f}" if most < 10 else f"{amount:,.1f}"),
            ]
    return joined(*parts)

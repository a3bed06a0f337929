"""Linear axes: where a number lies, and which ones are worth a tick."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear map from numbers to places on the page.

    Attributes:
        low: number at `start`.
        high: number at `end`; above `low`.
        start: place, in units of the drawing; of a vertical axis, the larger one.
        end: place of the other end.
        ticks: numbers worth a mark, from `low` to `high`.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    @classmethod
    def around(cls, numbers: Iterable[float], start: float, end: float, *, ticks: int) -> Self:
        """An axis that begins and ends on a tick and holds all of the numbers.

        Args:
            numbers: what is drawn; where there are none, the axis is from 0 to 1.
            start: place of its low end.
            end: place of its high end.
            ticks: about how many.
        """
        drawn = list(numbers) or [0.0, 1.0]
        low, high = min(drawn), max(drawn)
        if high <= low:
            low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
        step = round_step((high - low) / max(1, ticks))
        first, last = math.floor(low / step), math.ceil(high / step)
        marks = tuple((np.arange(first, last + 1) * step).tolist())
        return cls(marks[0], marks[-1], start, end, marks)

    def __call__(self, number: float) -> float:
        """The place of a number."""
        return self.start + (number - self.low) / (self.high - self.low) * (self.end - self.start)

    def label(self, number: float) -> str:
        """A tick's number, with the decimals that tell neighbours apart."""
        step = self.ticks[1] - self.ticks[0]
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        return f"{number + 0.0:.{decimals}f}"


def round_step(step: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is no smaller."""
    power: float = 10.0 ** math.floor(math.log10(step))
    return next(power * times for times in (1, 2, 5, 10) if power * times >= step * (1 - 1e-9))

"""Sums that do not depend on the order in which they are taken."""

import math
from dataclasses import dataclass, field


@dataclass(slots=True)
class Sum:
    """A sum of finite floats without rounding, as parts that do not overlap (Shewchuk 1997, "Adaptive Precision").

    So sums over parts of a corpus come to what one over all of it does, to the last bit.

    Attributes:
        parts: whose sum it is, the smallest first; few, whatever was added.
    """

    parts: list[float] = field(default_factory=list)

    def add(self, value: float) -> None:
        """Add a number."""
        rests = []
        for part in self.parts:
            large, small = (value, part) if abs(value) >= abs(part) else (part, value)
            value = large + small
            if rest := small - (value - large):
                rests.append(rest)
        self.parts = [*rests, value]

    def merge(self, other: "Sum") -> None:
        """Add another sum."""
        for part in other.parts:
            self.add(part)

    @property
    def value(self) -> float:
        """The sum, rounded once."""
        return math.fsum(self.parts)

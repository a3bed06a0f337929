"""What a machine can do: bytes read and operations done in a second."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

Arithmetic = Literal["float32", "bfloat16", "int8"]


@dataclass(frozen=True, slots=True)
class Speeds:
    """What a machine can do.

    Attributes:
        bytes_a_second: read by all threads, by how many bytes are read again and again; the most of them come from
            memory, fewer from a cache in part.
        operations_a_second: multiplications and additions of a large product, by what is multiplied.
    """

    bytes_a_second: dict[int, float]
    operations_a_second: dict[Arithmetic, float]

    @property
    def memory(self) -> float:
        """Bytes a second where no cache helps."""
        return self.bytes_a_second[max(self.bytes_a_second)]

    def reading(self, size: float) -> float:
        """Bytes a second where so many are read again and again: those of the next smaller size that was measured."""
        smaller = [measured for measured in self.bytes_a_second if measured <= size]
        return self.bytes_a_second[max(smaller, default=min(self.bytes_a_second))]

    def to_json(self) -> dict[str, Any]:
        """For another process, and for results."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """From another process."""
        return cls(
            {int(size): speed for size, speed in fields["bytes_a_second"].items()}, fields["operations_a_second"]
        )

    @classmethod
    def best(cls, measured: Sequence["Speeds"]) -> Self:
        """The best of each."""
        first = measured[0]
        return cls(
            {size: max(each.bytes_a_second[size] for each in measured) for size in first.bytes_a_second},
            {kind: max(each.operations_a_second[kind] for each in measured) for kind in first.operations_a_second},
        )

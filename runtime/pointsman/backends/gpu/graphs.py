"""What requests on a GPU ask of an engine."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from pointsman.backends.gpu.replays import Replays


class DeviceGraph(Protocol):
    """A graph that an engine has loaded on a device. One thread at a time may use it.

    Attributes:
        replays: what was recorded of its runs; nothing where the engine records by itself.
    """

    replays: Replays

    def run(self, sizes: Mapping[str, int], addresses: Sequence[int]) -> None:
        """Enqueue one run.

        Args:
            sizes: of the dynamic axes of the inputs, always in the same order.
            addresses: of all inputs, then all outputs, in the order of the graph's specs.

        Raises:
            OptionsError: the engine does not take these sizes.
            DeviceError: it fails.
        """
        ...


class Shapes(Protocol):
    """In which shapes an engine runs a request: few, so that runs can be recorded."""

    def of(self, batch: int, source: int, width: int, room: int) -> dict[str, int]:
        """The sizes of all dynamic axes for a request, padded.

        Args:
            batch: inputs.
            source: tokens of the longest.
            width: rows of each input.
            room: tokens that will be fed to each row, at most.

        Raises:
            OptionsError: the engine takes none so large.
        """
        ...


@runtime_checkable
class SharedShapes(Protocol):
    """In which shapes an engine runs steps that requests share: each axis by itself, and few of each."""

    def slots(self, needed: int) -> int:
        """How many inputs or rows to run for so many."""
        ...

    def source(self, tokens: int) -> int:
        """Of which length to run inputs for such a length."""
        ...

    def width(self, rows: int) -> int:
        """How many rows each input has room for, where one has so many."""
        ...

    def capacity(self, tokens: int) -> int:
        """For how many tokens a row's cache has room, where so many are needed."""
        ...

"""What the runtime asks of a GPU. All work is ordered on one stream, and addresses are plain integers."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

Launch = Callable[[int, tuple[int, ...], tuple[int, ...]], None]
"""Launches a kernel on so many blocks; its parameters are addresses, and after them 32-bit integers."""


class Pieces(NamedTuple):
    """Where the pieces of a copy lie.

    Attributes:
        address: of the first.
        group: bytes from group to group, a multiple of `piece`.
        piece: bytes from piece to piece.
    """

    address: int
    group: int
    piece: int


class Memory(Protocol):
    """An allocation; it is given back when the object goes.

    Attributes:
        address: of its first byte.
        size: in bytes.
    """

    address: int
    size: int


class Device(Protocol):
    """One GPU, and the stream that everything runs on.

    Attributes:
        name: as its maker has it.
        compute_capability: such as "8.9".
        stream: the stream's handle.
    """

    name: str
    compute_capability: str
    stream: int

    def activate(self) -> None:
        """Make this the calling thread's device."""
        ...

    def allocate(self, size: int) -> Memory:
        """Memory on the device.

        Raises:
            DeviceError: there is not as much.
        """
        ...

    def allocate_on_host(self, size: int) -> Memory:
        """Page-locked memory of the host.

        Raises:
            DeviceError: there is not as much.
        """
        ...

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy bytes between any two addresses, in the stream's order."""
        ...

    def copy_pieces(self, target: "Pieces", source: "Pieces", size: int, *, counts: tuple[int, int]) -> None:
        """Copy pieces of so many bytes on the device, in the stream's order.

        Args:
            target: where to.
            source: where from.
            size: of each piece, in bytes.
            counts: how many groups of how many pieces.
        """
        ...

    def clear(self, address: int, size: int) -> None:
        """Write zeros on the device, in the stream's order."""
        ...

    def wait(self) -> None:
        """Wait until the stream has done all it was given."""
        ...

    def mark(self) -> Callable[[], None]:
        """Mark how far the stream is; the result waits until all that it was given before is done.

        There is one mark: the next takes its place.
        """
        ...

    def capture(self, enqueue: Callable[[], object]) -> Callable[[], None]:
        """Record what `enqueue` gives to the stream, without doing it; the result does it, any number of times.

        Raises:
            CaptureError: it cannot be recorded.
        """
        ...

    def compile(self, source: str, kernel: str, macros: dict[str, int]) -> Launch:
        """Compile a kernel for this device."""
        ...


class CaptureError(RuntimeError):
    """What was enqueued cannot be recorded; it has to be enqueued each time."""

"""Device memory that grows, tensors laid out in it, and the two halves of the self-attention cache."""

import math
from collections.abc import Mapping, Sequence

from pointsman.backends.tensorrt.device import Device, Memory
from pointsman.bundle import TensorSpec, names

ALIGNMENT = 256  # bytes; what allocations have themselves, and more than any engine asks for
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int64": 8}
_LEAST_LENGTH = 64  # tokens that a cache has room for at first


def bytes_of(spec: TensorSpec, sizes: Mapping[str, int]) -> int:
    """How many bytes a tensor takes."""
    return math.prod(spec.shape(sizes)) * BYTES[spec.dtype]


def offsets(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where tensors of these sizes lie one after another, each aligned, and what all take together (bytes)."""
    found, end = [], 0
    for size in sizes:
        found.append(end)
        end += aligned(size)
    return found, end


def aligned(size: int) -> int:
    """The size, rounded up; an empty tensor takes room too, since engines want an address for it."""
    return max(-(-size // ALIGNMENT), 1) * ALIGNMENT


class Arena:
    """One allocation, on the device or of the host, that is replaced by a larger one when more is asked for."""

    def __init__(self, device: Device, *, on_host: bool = False) -> None:
        self._allocate = device.allocate_on_host if on_host else device.allocate
        self._device = device
        self._memory: Memory | None = None

    def reserve(self, size: int) -> int:
        """Have room; what was in it is lost if it has to grow.

        Returns:
            the address.
        """
        if self._memory is None or self._memory.size < size:
            if self._memory is not None:
                self._device.wait()  # until nothing enqueued uses it
            self._memory = None  # first, so that both are never there together
            self._memory = self._allocate(aligned(size))
        return self._memory.address

    def place(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Have room for tensors of these sizes (bytes) beside each other; their addresses."""
        places, total = offsets(sizes)
        base = self.reserve(total)
        return tuple(base + place for place in places)


class CacheHalves:
    """The cache of one request: each step reads one half and writes the other, one token longer.

    A half has as much room as was ever needed, so that addresses stay what they are from request to request and
    captured steps can be replayed. Growing copies nothing: a half is only replaced when it is about to be
    written.
    """

    def __init__(self, device: Device, specs: Sequence[TensorSpec]) -> None:
        """Prepare.

        Args:
            device: where.
            specs: the cache's tensors, with the axes `rows` and `past`.
        """
        self._specs = specs
        self._arenas = (Arena(device), Arena(device))
        self._room = [0, 0]  # tokens
        self._addresses: list[tuple[int, ...]] = [(), ()]
        self._rows = self._reading = self.length = 0

    def begin(self, rows: int) -> None:
        """Forget everything, for a request of so many rows."""
        if rows != self._rows:
            self._room = [0, 0]
        self._rows, self._reading, self.length = rows, 0, 0

    def step(self, positions: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Addresses of the tensors to read and of those to write, in the order of the specs."""
        return self._places(self._reading, self.length), self._places(1 - self._reading, self.length + positions)

    def grown(self, positions: int) -> None:
        """The step was enqueued: what it writes is read by the next."""
        self._reading = 1 - self._reading
        self.length += positions

    def _places(self, half: int, length: int) -> tuple[int, ...]:
        if length > self._room[half] or not self._room[half]:
            self._room[half] = max(length, 2 * self._room[half], _LEAST_LENGTH)
            sizes = {names.ROWS: self._rows, names.PAST: self._room[half]}
            self._addresses[half] = self._arenas[half].place([bytes_of(spec, sizes) for spec in self._specs])
        return self._addresses[half]

"""Device memory that grows, tensors laid out in it, and the self-attention cache."""

import math
from collections.abc import Iterable, Mapping, Sequence

from pointsman.backends.cache_rows import Move
from pointsman.backends.gpu.device import Device, Memory, Pieces
from pointsman.bundle import TensorSpec, names

ALIGNMENT = 256  # bytes; what allocations have themselves, and more than any engine asks for
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int64": 8}


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


class Cache:
    """The self-attention cache of one request: a step reads it and writes into it in place.

    Requests of the same shape have it at the same addresses, so that captured steps can be replayed.

    Attributes:
        addresses: of its tensors, in the order of the specs.
    """

    def __init__(self, device: Device, specs: Sequence[TensorSpec]) -> None:
        """Prepare.

        Args:
            device: where.
            specs: the cache's tensors, of one dtype, [rows, heads, capacity, d_kv] each.
        """
        self._device, self._specs = device, specs
        self._arena = Arena(device)
        self.addresses: tuple[int, ...] = ()

    def begin(self, rows: int, capacity: int) -> None:
        """Have room for a request, and hold nothing: zeros."""
        shape = {names.ROWS: rows, names.CAPACITY: capacity}
        sizes = [bytes_of(spec, shape) for spec in self._specs]
        self.addresses = self._arena.place(sizes)
        self._device.clear(self.addresses[0], offsets(sizes)[1])
        _, self._heads, _, _ = self._specs[0].shape(shape)
        self._row = sizes[0] // rows  # bytes
        self._token = self._row // self._heads // capacity  # of one head
        self._strides = aligned(sizes[0]), self._row // self._heads  # from tensor to tensor, and from head to head

    def move(self, moves: Iterable[Move], length: int) -> None:
        """Copy rows, of which the cache holds so many tokens."""
        counts = len(self.addresses), self._heads
        for target, source, first in moves:
            base, size = self.addresses[0] + first * self._token, (length - first) * self._token
            one, other = (Pieces(base + row * self._row, *self._strides) for row in (target, source))
            self._device.copy_pieces(one, other, size, counts=counts)

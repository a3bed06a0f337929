"""Device memory that grows, and tensors laid out in it."""

import math
from collections.abc import Mapping, Sequence

from pointsman.backends.gpu.device import Device, Memory
from pointsman.bundle import TensorSpec

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

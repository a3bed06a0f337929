"""Tensors with a slot for each input or row of many requests, on a device."""

import math
from collections.abc import Sequence

from pointsman.backends.cache_rows import Move
from pointsman.backends.gpu.device import Device, Memory, Pieces
from pointsman.backends.gpu.memory import BYTES, aligned, bytes_of
from pointsman.bundle import TensorSpec


class Slots:
    """Tensors of equal size whose first axis are slots, and whose length is that of another axis, the same for all.

    Memory is kept when all slots become free, and is laid out anew for what comes then. What is held moves between two
    pieces of it, so that addresses recur, and with them what was recorded.

    Attributes:
        count: slots that there are.
        length: of the other axis.
        addresses: of the tensors, in the order of the specs.
    """

    def __init__(self, device: Device, specs: Sequence[TensorSpec], length_axis: str) -> None:
        """Have none.

        Args:
            device: where.
            specs: of the tensors, [slots, ..., length, ...] each.
            length_axis: name of the axis.
        """
        self._device, self._specs, self._axis = device, specs, length_axis
        self._memory: Memory | None = None
        self._other: Memory | None = None
        self.count = self.length = 0
        self.addresses: tuple[int, ...] = ()

    def lay_out(self, count: int, length: int, *, held: int, filled: int) -> None:
        """Have so many slots of such a length.

        Args:
            count: slots.
            length: of each.
            held: slots whose content is kept: the first.
            filled: of the length of those.
        """
        sizes = {self._specs[0].axes[0]: count, self._axis: length}
        each = aligned(bytes_of(self._specs[0], sizes))  # type: ignore[arg-type]
        addresses, old = self.addresses, self.length
        if held:
            self._memory, self._other = self._other, self._memory
        is_new = self._memory is None or self._memory.size < each * len(self._specs)
        if is_new:
            if self._memory is not None:
                self._device.wait()  # a step that was begun ahead may still write there
            self._memory = self._device.allocate(each * len(self._specs))
        assert self._memory is not None
        if is_new or held:
            self._device.clear(self._memory.address, self._memory.size)  # what nobody has written is read, too
        self.addresses = tuple(self._memory.address + number * each for number in range(len(self._specs)))
        self.count, self.length, self._each = count, length, each
        if held and filled:
            for spec, target, source in zip(self._specs, self.addresses, addresses, strict=True):
                self._copy(spec, (target, length), (source, old), slots=held, filled=filled)
            self._device.wait()  # until nothing reads the memory that goes now

    def clear(self, first: int, slots: int) -> None:
        """Make slots from the first on zeros: what products read must be finite, whoever had it before."""
        if slots == self.count:
            self._device.clear(self.addresses[0], self._each * len(self._specs))  # they lie side by side
            return
        for spec, base in zip(self._specs, self.addresses, strict=True):
            size = self._slot(spec, self.length)
            self._device.clear(base + first * size, slots * size)

    def fill(self, first: int, slots: int, addresses: Sequence[int], length: int) -> None:
        """Copy tensors of such a length, [slots, ..., length, ...] each, into slots from the first on."""
        for spec, base, source in zip(self._specs, self.addresses, addresses, strict=True):
            target = base + first * self._slot(spec, self.length)
            self._copy(spec, (target, self.length), (source, length), slots=slots, filled=length)

    def copy_slot(self, target: int, source: int) -> None:
        """Copy all tensors' content of one slot to another."""
        size = self._slot(self._specs[0], self.length)
        one, other = (Pieces(self.addresses[0] + slot * size, self._each, self._each) for slot in (target, source))
        self._device.copy_pieces(one, other, size, counts=(len(self._specs), 1))

    def move(self, move: Move, filled: int) -> None:
        """Copy what differs of one slot to another, of tensors that are all [slots, ..., length, ...] alike."""
        lines, unit = self._lines(self._specs[0])
        size, line = self._slot(self._specs[0], self.length), self.length * unit
        base = self.addresses[0] + move.first * unit
        one, other = (Pieces(base + slot * size, self._each, line) for slot in (move.target, move.source))
        self._device.copy_pieces(one, other, (filled - move.first) * unit, counts=(len(self._specs), lines))

    def _copy(
        self, spec: TensorSpec, target: tuple[int, int], source: tuple[int, int], *, slots: int, filled: int
    ) -> None:
        """Copy the beginning of each slot between tensors of different lengths, given as address and length."""
        lines, unit = self._lines(spec)
        one, other = (Pieces(address, lines * length * unit, length * unit) for address, length in (target, source))
        self._device.copy_pieces(one, other, filled * unit, counts=(slots, lines))

    def _lines(self, spec: TensorSpec) -> tuple[int, int]:
        """How often a slot of a tensor goes along its length, and the bytes of one step of it."""
        place = spec.axes.index(self._axis)
        before, behind = ([int(axis) for axis in part] for part in (spec.axes[1:place], spec.axes[place + 1 :]))
        return math.prod(before), math.prod(behind) * BYTES[spec.dtype]

    def _slot(self, spec: TensorSpec, length: int) -> int:
        """Bytes of one slot of a tensor."""
        lines, unit = self._lines(spec)
        return lines * length * unit

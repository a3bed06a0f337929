"""What of mapped weights stays in a process's memory, on Linux: no more than a limit leaves room for.

Pages of a mapped file come into memory when they are read, and stay. Whenever the process has more than its limit,
those of the weights that were not read for longest are given back. They are clean, so that nothing is lost: they are
read again when they are needed.

Which weights were read is not asked of graphs but of the kernel: one page of each weight is given back early, and is
there again if the weight was read since. (Such a second chance: Corbató, "A paging experiment with the Multics
system", 1968.)
"""

import bisect
import ctypes
import mmap
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from pointsman.backends.onnxruntime.models.tensors import Stored
from pointsman.errors import DeviceError

_MAPS: Final = Path("/proc/self/maps")
_PAGE: Final = mmap.PAGESIZE
_ENTRY_BYTES, _IS_PRESENT = 8, 1 << 63  # of a page, in /proc/self/pagemap
_SECONDS: Final = 0.01  # between two looks at the process's memory
_SLACK: Final = 32  # a part of so many of the limit is given back beyond it, so that it is not reached at once again

_LOADING: Final = threading.Lock()  # what is mapped meanwhile was mapped by who holds it


@dataclass(slots=True)
class _Weight:
    """A mapped weight: its pages' address and bytes, and when it was last seen to have been read."""

    address: int
    bytes: int
    last_read: int = -1
    resident: bool = False

    @property
    def witness(self) -> int:
        """Address of the page that tells whether it was read; none at an end, which a neighbour's reading may bring."""
        return self.address + self.bytes // _PAGE // 2 * _PAGE


class ResidentWeights:
    """Mapped weights of a process that may have so much memory in all.

    Attributes:
        most_bytes: of the process's resident memory, beyond which weights are given back.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]], most_bytes: int) -> None:
        """Have weights that are mapped; none is thought to be resident.

        Args:
            ranges: address and bytes of each: whole pages of a file that are mapped for reading.
            most_bytes: of the process's resident memory.

        Raises:
            DeviceError: the system does not say which pages are there.
        """
        self.most_bytes = most_bytes
        self._weights = [_Weight(address, size) for address, size in ranges]
        self._looks = 0
        self._stuck = 0  # resident memory that was left when there was nothing more to give back
        try:
            self._pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)
        except OSError as error:
            raise DeviceError(
                f"/proc/self/pagemap cannot be read ({error.strerror}), and max_memory is not possible without it; "
                "leave it out"
            ) from error
        weakref.finalize(self, os.close, self._pagemap)

    def trim(self) -> None:
        """Give weights back where the process has more memory than it may: those not read for longest first."""
        resident, slack = resident_bytes(), self.most_bytes // _SLACK
        if resident <= max(self.most_bytes, self._stuck):
            return
        excess = resident - self.most_bytes + slack
        self._look()
        for weight in sorted((weight for weight in self._weights if weight.resident), key=lambda one: one.last_read):
            if excess > 0:
                _give_back(weight.address, weight.bytes)
                weight.resident = False
                excess -= weight.bytes
            else:
                _give_back(weight.witness, _PAGE)
        self._stuck = resident_bytes() + slack if excess > 0 else 0

    def _look(self) -> None:
        """Note which weights were read since the last time."""
        self._looks += 1
        for weight in self._weights:
            if self._is_present(weight.witness):
                weight.last_read, weight.resident = self._looks, True

    def _is_present(self, address: int) -> bool:
        entry = os.pread(self._pagemap, _ENTRY_BYTES, address // _PAGE * _ENTRY_BYTES)
        return bool(int.from_bytes(entry, sys.byteorder) & _IS_PRESENT)


class NewMappings:
    """What of a file is mapped while this is entered: `places` are then known."""

    def __init__(self, path: Path) -> None:
        """Look for mappings of a file.

        Raises:
            DeviceError: the system is not Linux.
        """
        if sys.platform != "linux":
            raise DeviceError("max_memory is possible on Linux only; leave it out")
        # By its path: in containers, stat tells of other inodes than the kernel's list does.
        self._path = os.fsencode(path.resolve()).replace(b"\n", rb"\012")
        self._mapped: set[tuple[int, int, int]] = set()

    def __enter__(self) -> "NewMappings":
        _LOADING.acquire()
        try:
            self._mapped = set(self._now())
        except BaseException:
            _LOADING.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._mapped = set(self._now()) - self._mapped
        finally:
            _LOADING.release()

    def addresses(self, stored: Sequence[Stored]) -> list[tuple[int, int]]:
        """Address and bytes of the pages of each of these tensors that was mapped; the others are left out."""
        mapped = sorted((offset, start, end) for start, end, offset in self._mapped)
        found = []
        for tensor in stored:
            before = bisect.bisect_right(mapped, tensor.offset, key=lambda one: one[0])
            offset, start, end = mapped[before - 1] if before else (0, 0, 0)
            address = start + tensor.offset - offset
            if address + tensor.length <= end:
                first, last = address // _PAGE, -(-(address + tensor.length) // _PAGE)
                found.append((first * _PAGE, (last - first) * _PAGE))
        return found

    def give_back(self) -> None:
        """Give back all pages that were read of what was mapped, which must be as it is in the file."""
        for start, end, _ in self._mapped:
            _give_back(start, end - start)

    def _now(self) -> Iterable[tuple[int, int, int]]:
        """Start, end and offset in the file of each mapping there is; none where the system does not tell."""
        try:
            mappings = _MAPS.read_bytes()
        except OSError:
            return
        for line in mappings.split(b"\n"):
            addresses, _, offset, _, _, path = [*line.split(maxsplit=5), *[b""] * 6][:6]
            if path == self._path:
                start, _, end = addresses.partition(b"-")
                yield int(start, 16), int(end, 16), int(offset, 16)


def _give_back(address: int, size: int) -> None:
    """Have pages of a mapped file leave memory until they are read again; what was written into them would be lost."""
    _madvise()(ctypes.c_void_p(address), ctypes.c_size_t(size), mmap.MADV_DONTNEED)


@cache
def _madvise() -> Callable[[ctypes.c_void_p, ctypes.c_size_t, int], int]:
    """The C library's, which there is on Linux."""
    found: Callable[[ctypes.c_void_p, ctypes.c_size_t, int], int] = ctypes.CDLL(None).madvise
    return found


def resident_bytes() -> int:
    """The process's resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def keep_trimmed(weights: ResidentWeights, owner: object, mapped_by: object) -> None:
    """Have a thread trim weights as long as their owner lives; a run of a graph is bounded too by that.

    Args:
        weights: what to trim.
        owner: with whose end, or the program's, the thread ends.
        mapped_by: what must live as long as the thread, since the weights are unmapped with it.
    """
    stop = threading.Event()

    def trim(_kept: object = mapped_by) -> None:
        while not stop.wait(_SECONDS):
            weights.trim()

    thread = threading.Thread(target=trim, name="pointsman-max-memory", daemon=True)
    thread.start()
    weakref.finalize(owner, _end, stop, thread)


def _end(stop: threading.Event, thread: threading.Thread) -> None:
    stop.set()
    if thread is not threading.current_thread():
        thread.join()

"""The host in the place of a GPU: its memory is host memory, its stream does work at once, its kernels are C.

What runs on it shows that addresses, layouts and orders are right. It shows nothing about any GPU.
"""

import ctypes
import subprocess
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pointsman.backends.gpu.device import CaptureError, Launch, Pieces
from pointsman.errors import DeviceError

HERE = Path(__file__).parent
THREADS = 8  # of a block: the host starts a thread for each


class HostMemory:
    def __init__(self, size: int) -> None:
        self._array = np.full(size + 256, 0x7F, np.uint8)  # 0x7f7f7f7f is no plausible number
        self.address = -(-self._array.ctypes.data // 256) * 256
        self.size = size


class HostDevice:
    """See `Device`; attributes count what happened."""

    name, compute_capability, stream = "a host", "8.9", 77

    def __init__(self, *, room: int = 1 << 30, captures: bool = True) -> None:
        self.room, self.captures = room, captures
        self.live: dict[int, int] = {}
        self.recorded: list[Callable[[], None]] | None = None
        self.replays = self.copied = self.submitted = 0

    def activate(self) -> None:
        pass

    def allocate(self, size: int) -> HostMemory:
        if sum(self.live.values()) + size > self.room:
            raise DeviceError("the GPU is out of memory; this is a test")
        memory = HostMemory(size)
        self.live[memory.address] = size
        weakref.finalize(memory, self.live.pop, memory.address)
        return memory

    allocate_on_host = allocate

    def submit(self, work: Callable[[], None]) -> None:
        """What a stream does: at once, or, while it is being recorded, not yet."""
        self.submitted += 1
        if self.recorded is None:
            work()
        else:
            self.recorded.append(work)

    def copy(self, target: int, source: int, size: int) -> None:
        self.check(target, size)
        self.check(source, size)
        self.copied += size
        self.submit(lambda: ctypes.memmove(target, source, size))

    def copy_pieces(self, target: Pieces, source: Pieces, size: int, *, counts: tuple[int, int]) -> None:
        for side in (target, source):
            assert side.group % side.piece == 0
            assert side.group >= counts[1] * side.piece
            assert side.piece >= size > 0
        for group, piece in np.ndindex(*counts):
            one, other = (side.address + group * side.group + piece * side.piece for side in (target, source))
            self.copy(one, other, size)

    def clear(self, address: int, size: int) -> None:
        self.check(address, size)
        self.submit(lambda: ctypes.memset(address, 0, size))

    def check(self, address: int, size: int) -> None:
        """Whether this lies in memory that was allocated."""
        inside = any(base <= address and address + size <= base + room for base, room in self.live.items())
        assert inside, f"{size} bytes at {address} are nobody's"

    def wait(self) -> None:
        assert self.recorded is None

    def mark(self) -> Callable[[], None]:
        assert self.recorded is None
        return lambda: None

    def capture(self, enqueue: Callable[[], object]) -> Callable[[], None]:
        if not self.captures:
            raise CaptureError("not today")
        self.recorded = work = []
        enqueue()
        self.recorded = None

        def replay() -> None:
            self.replays += 1
            for piece in work:
                piece()

        return replay

    def compile(self, source: str, kernel: str, macros: dict[str, int]) -> Launch:
        library = compiled(source)

        def launch(blocks: int, addresses: tuple[int, ...], integers: tuple[int, ...]) -> None:
            pointers = (ctypes.c_void_p * len(addresses))(*addresses)
            self.submit(lambda: library.launch(blocks, pointers, (ctypes.c_int * len(integers))(*integers)))

        return launch


def compiled(source: str) -> ctypes.CDLL:
    """A kernel as a library of the host."""
    with tempfile.TemporaryDirectory() as folder:
        kernel, library = Path(folder) / "kernel.h", Path(folder) / "kernel.so"
        kernel.write_text(source)
        command = ["cc", "-std=gnu11", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-pthread"]
        command += [f"-DTHREADS={THREADS}", f'-DKERNEL="{kernel}"', str(HERE / "host_kernel.c"), "-lm", "-o"]
        subprocess.run([*command, str(library)], check=True)
        return ctypes.CDLL(str(library))

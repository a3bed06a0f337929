"""Weights in huge pages: a step reads hundreds of megabytes once each, and looks 4 KB pages up for as long as it reads.

On Linux, unless nobody is to have huge pages (`never` in /sys/kernel/mm/transparent_hugepage/enabled), what a load has
allocated is moved into them by `MADV_COLLAPSE` (Linux 6.1; man 2 madvise). Elsewhere nothing happens, and nothing that
is computed changes.
"""

import ctypes
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Final

_MAPS: Final = Path("/proc/self/maps")
_ENABLED: Final = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_HUGE_PAGE, _AT_ONCE = 1 << 21, 1 << 24
_LEAST_MODEL, _LEAST_MAPPING = 64 << 20, 8 << 20  # smaller ones gain nothing that can be measured
_SECONDS_BEFORE: Final = 2.0
_MMAP_THRESHOLD, _LARGEST_THRESHOLD = -3, 32 << 20  # glibc's M_MMAP_THRESHOLD, and the most that it takes
_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25

THREAD: Final = "huge pages"
"""Name of the thread that does it, and ends then."""
Mapping = tuple[int, int]


@contextmanager
def huge_pages(weights: int) -> Iterator[None]:
    """Have what is allocated meanwhile moved into huge pages some seconds later, beside whatever the process does then.

    A command that is done by then is not kept up; one that goes on shares memory's speed with it for a while.

    Args:
        weights: bytes that are going to be loaded.
    """
    if weights < _LEAST_MODEL or platform.libc_ver()[0] != "glibc" or not _are_given():
        yield
        return
    before, library = set(anonymous_mappings()), ctypes.CDLL(None)
    # Blocks then lie side by side in the heap. In mappings of their own they would begin and end between huge pages.
    library.mallopt(_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
    yield
    library.malloc_trim(0)  # what loading freed, which would be moved too
    grown = [mapping for mapping in anonymous_mappings() if mapping not in before]
    Thread(target=_collapse, args=(grown,), name=THREAD, daemon=True).start()


def _are_given() -> bool:
    """Whether the system may be asked for huge pages, and says where they could be."""
    try:
        return _MAPS.exists() and "[never]" not in _ENABLED.read_text(encoding="ascii")
    except OSError:
        return False


def anonymous_mappings() -> Iterator[Mapping]:
    """First address, and the one behind the last, of each large piece of memory that is no file's."""
    for line in _MAPS.read_bytes().split(b"\n")[:-1]:  # the names of files are any bytes
        span, permissions, _, _, inode, *name = line.split(maxsplit=5)
        first, end = (int(address, 16) for address in span.split(b"-"))
        is_memory = permissions.startswith(b"rw") and inode == b"0" and name in ([], [b"[heap]"])
        if is_memory and end - first >= _LEAST_MAPPING:
            yield first, end


def _collapse(mappings: list[Mapping]) -> None:
    """Ask for huge pages at once, half of the time; what the kernel refuses stays as it is."""
    time.sleep(_SECONDS_BEFORE)
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for first, end in mappings:
        begin, last = -(-first // _HUGE_PAGE) * _HUGE_PAGE, end // _HUGE_PAGE * _HUGE_PAGE
        for start in range(begin, last, _AT_ONCE):  # a process that ends waits for what has begun
            size, began = min(_AT_ONCE, last - start), time.monotonic()
            if madvise(start, size, _MADV_HUGEPAGE) == 0:
                madvise(start, size, _MADV_COLLAPSE)
            time.sleep(time.monotonic() - began)

"""What a load allocates is moved into huge pages, where the system has them."""

import ctypes
import platform
import re
import threading
from pathlib import Path

import numpy as np
import pytest

from pointsman.backends.onnxruntime.huge_pages import THREAD, anonymous_mappings, huge_pages

ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SIZE = 24 << 20
on_linux = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc is what is asked")


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


def huge_bytes(address: int) -> int:
    """In huge pages, of the mapping that an address is in."""
    within = False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if span := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            within = int(span[1], 16) <= address < int(span[2], 16)
        elif within and line.startswith("AnonHugePages:"):
            return 1024 * int(line.split()[1])
    return 0


def allocated() -> int:
    """Memory that has been written to, and is never given back."""
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    address = library.malloc(SIZE)
    ctypes.memset(address, 1, SIZE)
    return address


@on_linux
def test_what_is_allocated_is_moved():
    with huge_pages(SIZE * 8):
        address = allocated()
    for thread in threads():
        thread.join(60)
    assert any(first <= address < end for first, end in anonymous_mappings())
    assert ctypes.string_at(address, SIZE) == b"\1" * SIZE
    enabled = ENABLED.exists() and "[never]" not in ENABLED.read_text(encoding="ascii")
    if enabled and tuple(map(int, re.findall(r"\d+", platform.release())[:2])) >= (6, 1):
        assert huge_bytes(address + SIZE // 2) > SIZE // 2


def test_small_models_are_left_alone():
    with huge_pages(1 << 20):
        held = np.ones(1 << 20)
    assert threads() == []
    assert held.all()


@on_linux
def test_an_error_passes_through():
    with pytest.raises(KeyError), huge_pages(SIZE * 8):
        raise KeyError

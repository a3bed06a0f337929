"""What a load allocates is asked to be moved into huge pages, where the system has them."""

import contextlib
import ctypes
import mmap
import os
import platform
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from pointsman.backends.onnxruntime.weights import huge_pages as module
from pointsman.backends.onnxruntime.weights.huge_pages import THREAD, anonymous_mappings, huge_pages

ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SIZE = 24 << 20
on_linux = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc is what is asked")


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


def flags(address: int) -> list[str]:
    """Of the mapping that an address is in."""
    within = False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if span := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            within = int(span[1], 16) <= address < int(span[2], 16)
        elif within and line.startswith("VmFlags:"):
            return line.split()[1:]
    return []


def allocated() -> int:
    """Memory that has been written to, and is never given back."""
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    address = library.malloc(SIZE)
    ctypes.memset(address, 1, SIZE)
    return address


def asked_for() -> None:
    """In a process whose heap has no room left over from other work."""
    with huge_pages(SIZE * 8):
        address = allocated()
    for thread in threads():
        thread.join(60)
    middle = address + SIZE // 2
    assert any(first <= middle < end for first, end in anonymous_mappings())
    assert ctypes.string_at(address, SIZE) == b"\1" * SIZE
    if ENABLED.exists():  # whether it has any to give, and when, the kernel decides
        assert "hg" in flags(middle)


@on_linux
def test_the_kernel_is_asked_for_what_is_allocated():
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import {__name__} as t; t.asked_for()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@on_linux
def test_files_of_any_name_may_be_mapped(tmp_path):
    with contextlib.ExitStack() as stack:
        for name in (b"caf\xe9 \xc2\x85.bin", "a\u2028b\x0c.bin".encode(), b"two\nlines"):
            path = tmp_path / os.fsdecode(name)
            with path.open("wb") as file:
                file.truncate(1 << 20)
            with path.open("rb") as file:
                stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        assert [*anonymous_mappings()]


@on_linux
@pytest.mark.parametrize("said", ["always madvise [never]", None])
def test_nobody_is_to_have_them(tmp_path, monkeypatch, said):
    """An administrator's choice, or a system that says nothing of them."""
    enabled = tmp_path / "enabled"
    if said is not None:
        enabled.write_text(said, encoding="ascii")
    monkeypatch.setattr(module, "_ENABLED", enabled)
    with huge_pages(SIZE * 8):
        allocated()
    assert threads() == []


def test_small_models_are_left_alone():
    with huge_pages(1 << 20):
        held = np.ones(1 << 20)
    assert threads() == []
    assert held.all()


@on_linux
def test_an_error_passes_through():
    with pytest.raises(KeyError), huge_pages(SIZE * 8):
        raise KeyError

"""How the process gets memory from the system and gives it back."""

import ctypes
import platform
from typing import Final

_M_MMAP_THRESHOLD: Final = -3  # in glibc's malloc.h
_LARGE: Final = 1 << 18  # bytes


def return_large_blocks() -> None:
    """Have glibc give large blocks back to the system as soon as they are freed; other C libraries are left alone.

    By itself it keeps those of up to 32 MB once such blocks were freed (mallopt(3), "dynamic mmap threshold"). Then its
    heap grows with every text whose arrays do not fit into the holes that others left.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)

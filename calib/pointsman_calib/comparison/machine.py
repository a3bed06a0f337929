"""The machine in words."""

import os
import platform
import re
from pathlib import Path
from typing import Final

from pointsman.processors import restricted
from pointsman.wording import counted

_CPUS: Final = Path("/proc/cpuinfo")


def machine() -> str:
    """Its processor, how many threads compute, and its system."""
    described = _CPUS.read_text() if _CPUS.exists() else ""
    return f"{_processor(described)}, {_threads(described)}, {platform.system()} {platform.machine()}"


def _processor(described: str) -> str:
    """As Linux names it, where it does."""
    named = re.search(r"^model name\s*:\s*(.+)$", described, re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()


def _threads(described: str) -> str:
    """ONNX Runtime takes one for each physical core where nobody says otherwise; not all systems tell these apart."""
    if (threads := restricted()) is not None:
        return f"{counted(threads, 'thread')}, as many as this process may use of {os.cpu_count()} logical cores"
    identified = r"^physical id\s*:\s*(\d+)$.*?^core id\s*:\s*(\d+)$"
    cores = len({*re.findall(identified, described, re.MULTILINE | re.DOTALL)})
    if cores:
        return f"a thread on each of {cores} physical cores"
    return f"ONNX Runtime's own choice of threads on {os.cpu_count()} logical cores"

"""How many processors this process may use.

In a container or under `taskset` that is fewer than the machine has. ONNX Runtime asks the machine alone: it would
start a thread for each processor, and these would wait for each other.
"""

import math
import os
from pathlib import Path
from typing import Final

_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
"""Of a container under Linux's control groups, version 2: microseconds of computing in a period, and the period."""


def usable() -> int:
    """Processors that this process may run on, or as many as its share of time comes to; at least 1."""
    return max(1, min(_allowed(), _afforded()))


def restricted() -> int | None:
    """The same where it is fewer than the machine has; None where an engine may choose by the machine."""
    found = usable()
    return found if found < (os.cpu_count() or 1) else None


def _allowed() -> int:
    """Those that the process may run on; macOS and Windows do not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _afforded() -> int:
    """Those that its share of time comes to, a part of one rounded up; all of them where there is no limit."""
    everything = os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text(encoding="ascii").split()
        return everything if quota == "max" else math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return everything

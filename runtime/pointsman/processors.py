"""How many processors this process may use.

In a container or under `taskset` that is fewer than the machine has. ONNX Runtime asks the machine alone: it would
start a thread for each processor, and these would wait for each other.
"""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

_OWN_GROUPS: Final = Path("/proc/self/cgroup")
_GROUPS: Final = Path("/sys/fs/cgroup")
"""Linux's control groups. In version 2, each may have `cpu.max`: microseconds of computing in a period, and the period.
In version 1 these are in `cpu.cfs_quota_us` and `cpu.cfs_period_us`, under `cpu`. What a container sees as the root is
its own group."""
_VERSION_2, _VERSION_1 = ("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")
_UNLIMITED: Final = ("max", "-1")


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
    return min([*_quotas(), os.cpu_count() or 1])


def _quotas() -> Iterator[int]:
    """What this process's groups, and those that they are in, have a right to."""
    for group in _groups():
        for place, files in ((_GROUPS, _VERSION_2), (_GROUPS / "cpu", _VERSION_1)):
            for folder in (place / group, *(place / group).parents):
                if not folder.is_relative_to(place):
                    break
                yield from _quota([folder / file for file in files])


def _groups() -> Iterator[str]:
    """Of this process, of all hierarchies that could tell."""
    yield ""
    try:
        lines = _OWN_GROUPS.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            yield path.lstrip("/")


def _quota(files: Sequence[Path]) -> Iterator[int]:
    try:
        quota, period = " ".join(file.read_text(encoding="ascii") for file in files).split()
        if quota not in _UNLIMITED:
            yield math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return

"""Sharing the machine with other programs while training."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch


def tune_process() -> None:
    """Start again with two settings that are read only at process start.

    glibc keeps freed blocks (fresh pages for every large tensor cost a fifth of the time), and OpenMP threads
    hardly spin while they wait (spinning makes a step ten times slower when another program uses the cores).
    """
    wanted = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "20000000000", "GOMP_SPINCOUNT": "2000"}
    if any(name not in os.environ for name in wanted):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**wanted, **os.environ})


class Threads:
    """Follows the load: one thread while other programs keep a core busy, else as many as asked for.

    Two threads that meet at a barrier after every product run at the speed of the slower one; beside another
    busy program one thread alone is faster.  Linux only (/proc/stat); elsewhere the number stays as it is.
    """

    def __init__(self, most: int) -> None:
        self.most, self.stat = most, Path("/proc/stat")
        self.time, self.used = time.monotonic(), self.others()
        torch.set_num_threads(most)

    def others(self) -> float:
        """Processor seconds that everybody else has used so far."""
        if not self.stat.exists():
            return 0.0
        ticks = [int(v) for v in self.stat.read_text().split("\n", 1)[0].split()[1:9]]
        own = os.times()
        return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK") - own.user - own.system

    def follow(self) -> None:
        """Look at most about once a second, and change the number of threads on a clear difference."""
        now = time.monotonic()
        if now - self.time < 0.8:
            return
        used = self.others()
        load = (used - self.used) / (now - self.time)
        self.time, self.used = now, used
        if load > 0.4:
            torch.set_num_threads(1)
        elif load < 0.2:
            torch.set_num_threads(self.most)

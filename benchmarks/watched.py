"""Run a command and watch its memory from outside, through /proc (Linux)."""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_INTERVAL = 0.01  # seconds; an export's large allocations live longer
_KB = 1024


@dataclass
class Watched:
    """What a finished command took.

    Attributes:
        exit_code: of the process.
        seconds: from start to end.
        peak_bytes: the largest resident memory, as the kernel counts it: no sample can miss it.
        anonymous_peak_bytes: the largest sample of memory that belongs to no file.
        stages: for each stage the largest samples, in bytes, of `resident`, `anonymous` and `file` memory.
        stage_seconds: for each stage how long it took, as well as samples tell.
    """

    exit_code: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0
    anonymous_peak_bytes: int = 0
    stages: dict[str, dict[str, int]] = field(default_factory=dict)
    stage_seconds: dict[str, float] = field(default_factory=dict)

    def note(self, stage: str, sample: dict[str, int], seconds: float) -> None:
        """Take a sample into account, and the seconds since the one before."""
        self.stage_seconds[stage] = self.stage_seconds.get(stage, 0.0) + seconds
        highest = self.stages.setdefault(stage, dict.fromkeys(sample, 0))
        for kind, size in sample.items():
            highest[kind] = max(highest[kind], size)
        self.anonymous_peak_bytes = max(self.anonymous_peak_bytes, sample["anonymous"])


def watch(command: Sequence[str], stage: Callable[[], str]) -> Watched:
    """Run a command to its end.

    Args:
        command: program and arguments.
        stage: asked at every sample for the name of what the command is doing.
    """
    watched, began = Watched(), time.perf_counter()
    process = subprocess.Popen(command)
    finished, last = 0, began
    while not finished:
        if sample := _memory(process.pid):
            now = time.perf_counter()
            watched.note(stage(), sample, now - last)
            last = now
        time.sleep(_INTERVAL)
        finished, status, usage = os.wait4(process.pid, os.WNOHANG)
    process.returncode = watched.exit_code = os.waitstatus_to_exitcode(status)
    watched.seconds = time.perf_counter() - began
    watched.peak_bytes = usage.ru_maxrss * _KB
    return watched


def _memory(process: int) -> dict[str, int]:
    """Memory of a process now, in bytes; empty when it has just ended."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    if "VmRSS" not in fields:
        return {}
    kinds = {"resident": "VmRSS", "anonymous": "RssAnon", "file": "RssFile"}
    return {kind: int(fields[name].split()[0]) * _KB for kind, name in kinds.items()}

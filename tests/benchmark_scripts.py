"""The scripts of the benchmarks, run."""

import subprocess
import sys

from places import ROOT

BENCHMARKS = ROOT / "benchmarks"


def script(name: str, *arguments: object, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False)

"""Freed arrays leave the process, also where small ones that are kept lie between them."""

import subprocess
import sys

import pytest

KEEP_SMALL_ONES_BETWEEN_LARGE_ONES = """
import re
from pathlib import Path
import numpy as np
from pointsman_calib.cli.memory import return_large_blocks


def resident() -> int:
    return int(re.findall(r"VmRSS:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[0])


if {called}:
    return_large_blocks()
np.ones(30 << 17)  # 30 MB, freed at once: from here on, glibc by itself keeps as much
before = resident()
pairs = [(np.ones(1 << 20), np.ones(1 << 10)) for _ in range(20)]
small = [pair[1] for pair in pairs]
del pairs
print(resident() - before)
"""


def kept(called: bool) -> int:
    """Bytes that stay with the process of 160 MB that it freed."""
    code = KEEP_SMALL_ONES_BETWEEN_LARGE_ONES.format(called=called)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(ran.stdout) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_large_blocks_go_back_to_the_system():
    if kept(called=False) < 50e6:
        pytest.skip("this C library gives them back by itself")
    assert kept(called=True) < 10e6

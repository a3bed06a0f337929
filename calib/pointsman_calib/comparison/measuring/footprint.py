"""What a process that holds nothing but one variant takes of the RAM."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pointsman_calib.comparison.records import Footprint

_PROGRAM: Final = Path(__file__).with_name("filling_alone.py")
STATUS: Final = Path("/proc/self/status")


def footprint(bundle: Path, variant: str, inputs: Sequence[Sequence[int]], *, max_new_tokens: int) -> Footprint | None:
    """Load a variant in a process of its own, and generate with 4 beams, one input at a time.

    Args:
        bundle: its folder; its files are not checked again.
        variant: name of the variant.
        inputs: token ids.
        max_new_tokens: of each output.

    Returns:
        None where there is no `/proc`, and where the process was killed, as for want of memory.

    Raises:
        RuntimeError: the process failed by itself, which is a bug.
    """
    if not STATUS.exists():
        return None
    asked = json.dumps({"bundle": str(bundle), "variant": variant, "inputs": inputs, "max_new_tokens": max_new_tokens})
    # By its path, and without that path's folder: nothing of the calibrator is loaded, which would count as well.
    command = [sys.executable, "-P", str(_PROGRAM)]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    if done.returncode < 0:
        return None
    if done.returncode > 0:
        raise RuntimeError(done.stderr)
    return Footprint(**json.loads(done.stdout))

"""A program that loads one variant, generates, and prints what that took; `footprint` runs it."""

import json
import re
import sys
from pathlib import Path

from pointsman.decoding import DecodingOptions
from pointsman.model import SwitchModel


def main() -> None:
    """Read what to do from stdin as JSON; print a `Footprint` as JSON."""
    asked = json.load(sys.stdin)
    model = SwitchModel.load(asked["bundle"], "cpu", asked["variant"], verify=False)
    loaded = _resident("VmRSS")
    options = DecodingOptions(num_beams=4, max_new_tokens=asked["max_new_tokens"])
    for ids in asked["inputs"]:
        model.generate([ids], options)
    json.dump({"loaded_bytes": loaded, "peak_bytes": _resident("VmHWM")}, sys.stdout)


def _resident(field: str) -> int:
    """Bytes: just now (VmRSS), or the most so far (VmHWM)."""
    (number,) = re.findall(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return 1024 * int(number)


if __name__ == "__main__":
    main()

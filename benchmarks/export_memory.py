"""Memory that exporting takes, for checkpoints of 2 GB and of 8 GB: it must not grow with the model.

Each export runs as users run it (`pointsman-export bundle`, both forms, with the parity check) in a process of its own
whose memory is watched from outside. Two peaks are told apart: `peak` is the largest resident memory, which counts
pages of mapped files that the kernel may take back at any time; `anonymous peak` is memory that only the process
itself can give back. Exit code 1 says that a promise about a peak is not kept.
"""

import argparse
import contextlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measurements
from measurements import BUILD, RESULTS, Bar
from prepared import EXPORTER
from shapes import SHAPES, total_bytes, write_checkpoint
from watched import Watched, watch

SMALL, LARGE = "2GB-by-blocks", "8GB-by-blocks"
REPORTED = ("2GB-by-experts", "8GB-by-experts")  # a layer's experts are one tensor of the portable form
MOST_GB, MOST_GROWTH = 1.5, 1.10


@dataclass(frozen=True, slots=True)
class Exported:
    """One export, watched.

    Attributes:
        model_bytes: of the checkpoint's weights.
        watched: time and memory.
    """

    model_bytes: int
    watched: Watched

    def to_json(self) -> dict[str, Any]:
        """Peaks in bytes, time in seconds, and memory every so often."""
        return {
            "model_bytes": self.model_bytes,
            "seconds": round(self.watched.seconds, 2),
            "peak_bytes": self.watched.peak_bytes,
            "anonymous_peak_bytes": self.watched.anonymous_peak_bytes,
            "stages": self.watched.stages,
        }


def export_watched(shape: str, folder: Path) -> Exported:
    """Write a checkpoint, export it, and remove both."""
    checkpoint, bundle = folder / shape, folder / f"{shape}-bundle"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        print(f"{shape}: writing", file=sys.stderr, flush=True)
        write_checkpoint(checkpoint, SHAPES[shape])
        print(f"{shape}: exporting", file=sys.stderr, flush=True)
        watched = watch([EXPORTER, "bundle", str(checkpoint), "-o", str(bundle)], lambda: newest_file(bundle))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if watched.exit_code:
        raise subprocess.CalledProcessError(watched.exit_code, EXPORTER)
    return Exported(total_bytes(SHAPES[shape]), watched)


def newest_file(bundle: Path) -> str:
    """The last file that the exporter has begun, which tells what it is doing."""
    begun = {}
    for path in bundle.parent.glob(f".{bundle.name}.partial-*/**/*"):
        with contextlib.suppress(FileNotFoundError):  # renamed just now
            begun[path.name] = path.stat().st_mtime_ns if path.is_file() else 0
    return max(begun, key=lambda name: begun[name]) if any(begun.values()) else "start and end"


def bars(exported: dict[str, Exported], small: str, large: str) -> list[Bar]:
    """What is promised: the large model's peak, and that it is not the model's size that decides it."""
    peaks = {name: exported[name].watched.peak_bytes for name in (small, large)}
    return [
        Bar("peak of the large, GB", peaks[large] / 1e9, MOST_GB, at_least=False),
        Bar("peak of the large over that of the small", peaks[large] / peaks[small], MOST_GROWTH, at_least=False),
    ]


def print_report(exported: dict[str, Exported]) -> None:
    """Print size, time and peaks."""
    rows = [
        [
            name,
            f"{each.model_bytes / 1e9:.2f}",
            f"{each.watched.seconds:.0f}",
            f"{each.watched.peak_bytes / 1e9:.2f}",
            f"{each.watched.anonymous_peak_bytes / 1e9:.2f}",
        ]
        for name, each in exported.items()
    ]
    measurements.print_table(["checkpoint", "GB", "s", "peak GB", "anonymous peak GB"], rows)


def main() -> int:
    parsed = _parser().parse_args()
    small, large = ("tiny", "tiny-by-experts") if parsed.quick else (SMALL, LARGE)
    reported: Sequence[str] = () if parsed.bars_only or parsed.quick else REPORTED
    started = measurements.begin()
    exported = {shape: export_watched(shape, parsed.folder) for shape in (small, large, *reported)}
    promised = [] if parsed.quick else bars(exported, small, large)
    print_report(exported)
    body = {
        "exports": {name: each.to_json() for name, each in exported.items()},
        "bars": [bar.to_json() for bar in promised],
    }
    default = (BUILD / "quick" if parsed.quick else RESULTS) / "export_memory.json"
    measurements.write(parsed.output or default, started, body)
    return 0 if measurements.print_bars(promised) else 1


def _parser() -> argparse.ArgumentParser:
    parser = measurements.parser(
        "Measure the memory that exporting takes. Needs 17 GB of disk.", folder="export_memory"
    )
    parser.add_argument("--bars-only", action="store_true", help="leave out the models that grow by experts")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""Memory that comparing takes: a bundle of switch-base-8's size with five variants, on a few documents.

The variants are made as users make them, and compared (`pointsman-calib compare`, layers and generations included) in a
process of its own whose memory is watched from outside. Exit code 1 says that the promise about the peak is not kept.
What is compared are random weights: the figures say nothing of accuracy.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import measurements
from calib_memory import LIMITLESS
from measurements import BUILD, RESULTS, Bar
from pointsman.bundle import read_manifest
from prepared import CALIBRATOR, EXPORTER
from shapes import SHAPES, total_bytes, write_checkpoint
from watched import Watched, watch

SHAPE, QUICK_SHAPE = "switch-base-8", "tiny"
SAMPLES = Path(__file__).parents[1] / "examples" / "data"
CALIBRATED = ("--too-long", "cut", "--documents", "2", "--max-thin-experts", "1", *LIMITLESS)
COMPARED = ("--too-long", "cut", "--layers", "--generations", "1")
MOST_GB = 6.0


def prepare(shape: str, folder: Path) -> Path:
    """Write a checkpoint, export both forms, and quantize in every scheme."""
    checkpoint, bundle = folder / shape, folder / f"{shape}-bundle"
    write_checkpoint(checkpoint, SHAPES[shape])
    subprocess.run([EXPORTER, "bundle", str(checkpoint), "-o", str(bundle), "--form", "both"], check=True)
    shutil.rmtree(checkpoint)
    corpus = ("--corpus", str(SAMPLES / "c4-sample-train.json.gz"), *CALIBRATED)
    for scheme, options in (("int8", ()), ("int4", ()), ("int8-qdq", corpus)):
        subprocess.run([CALIBRATOR, "quantize", str(bundle), "--scheme", scheme, *options], check=True)
    return bundle


def compared(bundle: Path, documents: int) -> Watched:
    """Compare all variants under watch."""
    command = [CALIBRATOR, "compare", str(bundle), *COMPARED, "--documents", str(documents)]
    command += ["--corpus", str(SAMPLES / "c4-sample-validation.json.gz")]
    watched = watch(command, lambda: "compare")
    if watched.exit_code:
        raise subprocess.CalledProcessError(watched.exit_code, CALIBRATOR)
    return watched


def measured(shape: str, folder: Path, documents: int) -> tuple[Watched, list[str]]:
    """Prepare a bundle, compare its variants, and remove all; the names of the variants too."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        bundle = prepare(shape, folder)
        names = list(read_manifest(bundle).variants)
        return compared(bundle, documents), names
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def to_json(watched: Watched) -> dict[str, Any]:
    """Peaks in bytes, time in seconds."""
    return {
        "seconds": round(watched.seconds, 2),
        "peak_bytes": watched.peak_bytes,
        "anonymous_peak_bytes": watched.anonymous_peak_bytes,
    }


def main() -> int:
    parsed = _parser().parse_args()
    started = measurements.begin()
    shape = QUICK_SHAPE if parsed.quick else SHAPE
    watched, names = measured(shape, parsed.folder, parsed.documents)
    bars = [] if parsed.quick else [Bar("peak, GB", watched.peak_bytes / 1e9, MOST_GB, at_least=False)]
    row = [f"{watched.seconds:.0f}", f"{watched.peak_bytes / 1e9:.2f}", f"{watched.anonymous_peak_bytes / 1e9:.2f}"]
    measurements.print_table(
        ["comparing", "variants", "s", "peak GB", "anonymous peak GB"], [[shape, str(len(names)), *row]]
    )
    body = {
        "settings": {"documents": parsed.documents, "options": COMPARED},
        "shape": shape,
        "model_bytes": total_bytes(SHAPES[shape]),
        "variants": names,
        **to_json(watched),
        "bars": [bar.to_json() for bar in bars],
    }
    default = (BUILD / "quick" if parsed.quick else RESULTS) / "compare_memory.json"
    measurements.write(parsed.output or default, started, body)
    return 0 if measurements.print_bars(bars) else 1


def _parser() -> argparse.ArgumentParser:
    parser = measurements.parser(
        "Measure the memory that comparing takes. Needs 7 GB of disk.", folder="compare_memory"
    )
    parser.add_argument("--documents", type=int, default=8, help="documents compared on (default: 8)")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""How long plans of switch-base-8's size take to build, how large they are, and the memory that building takes.

Each variant's two plans are built as users build them (`pointsman-export engines`), ahead of time with TensorRT-RTX,
in a process of its own whose memory is watched from outside. No GPU takes part: this says nothing of how plans run.
"""

import argparse
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measurements
from measurements import BUILD, RESULTS
from pointsman.bundle import Manifest, PlanRecord, read_manifest
from prepared import EXPORTER, prepared_checkpoint
from watched import Watched, watch

SHAPE, QUICK_SHAPE = "switch-base-8", "tiny"
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Built:
    """The plans of one variant.

    Attributes:
        weight_bytes: of the variant's graphs together.
        engines: records of the plans.
        watched: time and memory of the process that built them.
    """

    weight_bytes: int
    engines: tuple[PlanRecord, ...]
    watched: Watched

    def to_json(self) -> dict[str, Any]:
        """Sizes and peaks in bytes, times in seconds."""
        plans = {engine.role: {"seconds": engine.build_seconds, "bytes": engine.file.bytes} for engine in self.engines}
        return {
            "weight_bytes": self.weight_bytes,
            "plans": plans,
            "process_seconds": round(self.watched.seconds, 1),
            "peak_bytes": self.watched.peak_bytes,
        }


def build_watched(checkpoint: Path, dtype: str, capability: str, folder: Path) -> Built:
    """Export a checkpoint at a precision, build its plans, and remove both."""
    bundle = folder / f"{checkpoint.name}-{dtype}"
    shutil.rmtree(bundle, ignore_errors=True)
    try:
        print(f"{dtype}: exporting", file=sys.stderr, flush=True)
        export = [EXPORTER, "bundle", str(checkpoint), "-o", str(bundle), "--form", "portable", "--dtype", dtype]
        subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
        print(f"{dtype}: building", file=sys.stderr, flush=True)
        build = [EXPORTER, "engines", str(bundle), "--flavour", "tensorrt-rtx", "--compute-capability", capability]
        watched = watch(build, lambda: "engines")
        if watched.exit_code:
            raise subprocess.CalledProcessError(watched.exit_code, build)
        manifest = read_manifest(bundle)
        return Built(_weight_bytes(manifest), manifest.engines, watched)
    finally:
        shutil.rmtree(bundle, ignore_errors=True)


def _weight_bytes(manifest: Manifest) -> int:
    (variant,) = manifest.variants.values()
    return sum(record.bytes for record in variant.files if record.path.endswith(".bin"))


def print_report(built: dict[str, Built]) -> None:
    """Print times, sizes and peaks."""
    rows = [
        [
            f"{dtype} {engine.role}",
            f"{engine.build_seconds:.1f}",
            f"{engine.file.bytes / 1e6:,.0f}",
            f"{each.weight_bytes / 1e6:,.0f}",
            f"{each.watched.peak_bytes / 1e9:.2f}",
        ]
        for dtype, each in built.items()
        for engine in each.engines
    ]
    measurements.print_table(["plan", "s", "MB", "weights of both, MB", "peak GB of both"], rows)


def main() -> int:
    parsed = _parser().parse_args()
    shape = QUICK_SHAPE if parsed.quick else SHAPE
    started = measurements.begin()
    checkpoint = prepared_checkpoint(parsed.keep, shape)
    built = {dtype: build_watched(checkpoint, dtype, parsed.compute_capability, parsed.keep) for dtype in parsed.dtype}
    print_report(built)
    body = {
        "shape": shape,
        "library": f"tensorrt-rtx {next(iter(built.values())).engines[0].version}",
        "compute_capability": parsed.compute_capability,
        "variants": {f"portable-{dtype}": each.to_json() for dtype, each in built.items()},
    }
    default = (BUILD / "quick" if parsed.quick else RESULTS) / "engine_build.json"
    measurements.write(parsed.output or default, started, body)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = measurements.parser("Measure building of plans. Needs 9 GB of disk.")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--compute-capability", default="8.9", metavar="X.Y")
    parser.add_argument("--keep", type=Path, default=BUILD, help="where the checkpoint is kept for the next run")
    return parser


if __name__ == "__main__":
    sys.exit(main())

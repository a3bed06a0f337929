"""Slices of the two giants at their full width: exported, checked, quantized to INT4 and decoded with, as users do it.

Each slice has the width of switch-xxl-128 or of switch-c-2048 and as many blocks and experts as 30 GB of free disk
hold; one has all 2,048 experts at an eighth of the width. Weights are random, in bfloat16 and under the published
names. Every command runs in a process of its own whose memory is watched from outside. Export is timed beside `cp` of
the same checkpoint; both read it from the disk. Exit code 1 says that a promise is not kept.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import onnx_ir as ir

import measurements
from export_memory import newest_file
from measurements import BUILD, RESULTS, Bar
from pointsman.bundle import ROLES, Architecture, Form, names
from pointsman_export.graphs.decoder import decoder_graph
from pointsman_export.graphs.encoder import encoder_graph
from pointsman_export.graphs.weights import places, plan
from pointsman_export.network import Build, Precision
from prepared import CALIBRATOR, EXPORTER
from shapes import SHAPES, c, total_bytes, write_checkpoint, xxl
from watched import Watched, watch

SLICES = ("xxl-16-experts", "c-64-experts", "c-2048-narrow-experts")
QUICK_SLICES = ("tiny-gated", "tiny-by-experts")
WHOLE = {
    "switch-xxl-128": ("xxl-16-experts", xxl(layers=24, num_experts=128)),
    "switch-c-2048": ("c-64-experts", c(layers=15, num_experts=2048)),
}
RUNTIME = str(Path(sys.executable).with_name("pointsman"))
FORMS: tuple[Form, ...] = ("fused", "portable")
TEXT = "The <extra_id_0> waits by the box."
MOST_GB, LEAST_OF_CP, MOST_BETWEEN_SHAPES = 2.5, 1 / 3, 1.5


@dataclass(frozen=True, slots=True)
class Measured:
    """What was done with a slice.

    Attributes:
        model_bytes: of its weights in bfloat16.
        cp_seconds: of copying its files.
        graph_seconds: of building and writing the graphs of both forms, which depends on how many experts there are
            and not on their size.
        steps: what each command took.
    """

    model_bytes: int
    cp_seconds: float
    graph_seconds: float
    steps: Mapping[str, Watched]

    @property
    def export(self) -> Watched:
        """The export of both forms in the checkpoint's own dtype."""
        return self.steps["export, bfloat16"]

    @property
    def seconds_per_gb(self) -> float:
        """Of the export, but for its graphs."""
        return (self.export.seconds - self.graph_seconds) / (self.model_bytes / 1e9)

    @property
    def share_of_cp(self) -> float:
        """The export's speed over that of `cp`."""
        return self.cp_seconds / self.export.seconds

    def to_json(self) -> dict[str, Any]:
        """Bytes and seconds."""
        return {
            "model_bytes": self.model_bytes,
            "cp_seconds": round(self.cp_seconds, 2),
            "graph_seconds": round(self.graph_seconds, 2),
            "seconds_per_gb": round(self.seconds_per_gb, 3),
            "share_of_cp": round(self.share_of_cp, 3),
            "steps": {
                name: {
                    "seconds": round(step.seconds, 2),
                    "stage_seconds": {stage: round(seconds, 2) for stage, seconds in step.stage_seconds.items()},
                    "peak_bytes": step.peak_bytes,
                    "anonymous_peak_bytes": step.anonymous_peak_bytes,
                }
                for name, step in self.steps.items()
            },
        }


def measure(shape: str, folder: Path, *, export_only: bool) -> Measured:
    """Write a slice, take it through all steps, or through the first alone, and remove it."""
    checkpoint, bundle = folder / shape, folder / f"{shape}-bundle"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        print(f"{shape}: writing", file=sys.stderr, flush=True)
        write_checkpoint(checkpoint, SHAPES[shape], dtype="bfloat16")
        copying = copied(checkpoint, folder / "copy")
        steps = {}
        forget(checkpoint)
        export = [EXPORTER, "bundle", str(checkpoint), "-o", str(bundle)]
        steps["export, bfloat16"] = watched([*export, "--dtype", "bfloat16"], lambda: newest_file(bundle))
        if not export_only:
            shutil.rmtree(bundle)
            # The calibrator reads float32.
            steps["export, float32"] = watched([*export, "--form", "fused"], lambda: newest_file(bundle))
            shutil.rmtree(checkpoint)
            steps["int4"] = watched([CALIBRATOR, "quantize", str(bundle), "--scheme", "int4"])
            decode = [RUNTIME, "infill", str(bundle), TEXT, "--variant", "fused-int4", "--max-new-tokens", "8"]
            steps["decode, int4"] = watched(decode)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Measured(total_bytes(SHAPES[shape], "bfloat16"), copying, graphs_built(SHAPES[shape], folder), steps)


def graphs_built(architecture: Architecture, folder: Path) -> float:
    """Seconds that building and writing both forms' graphs takes."""
    began = time.perf_counter()
    tensors = places(plan(architecture, "bfloat16"), folder / names.WEIGHTS)
    folder.mkdir(parents=True)
    try:
        for form, role in product(FORMS, ROLES):
            build = Build(architecture, form, Precision.of("bfloat16"), architecture.expert_capacity)
            make = encoder_graph if role == "encoder" else decoder_graph
            ir.save(make(build, tensors), folder / names.graph_name(form, role))
    finally:
        shutil.rmtree(folder)
    return time.perf_counter() - began


def copied(checkpoint: Path, copy: Path) -> float:
    """Seconds that `cp` takes for a checkpoint that lies on the disk alone."""
    forget(checkpoint)
    began = time.perf_counter()
    subprocess.run(["cp", "-r", str(checkpoint), str(copy)], check=True)
    seconds = time.perf_counter() - began
    shutil.rmtree(copy)
    return seconds


def forget(folder: Path) -> None:
    """Have the kernel write what it holds of a folder, and drop it."""
    os.sync()
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def watched(command: Sequence[str], stage: Callable[[], str] = lambda: "all") -> Watched:
    """Run a command under watch.

    Raises:
        CalledProcessError: it fails.
    """
    print(" ".join(command[:3]), file=sys.stderr, flush=True)
    done = watch(command, stage)
    if done.exit_code:
        raise subprocess.CalledProcessError(done.exit_code, command)
    return done


def bars(measured: Mapping[str, Measured]) -> list[Bar]:
    """What is promised of each slice, and that the cost of a gigabyte does not depend on the shape."""
    costs = [each.seconds_per_gb for each in measured.values()]
    return [
        *(
            Bar(f"{shape}: peak of export, GB", each.export.peak_bytes / 1e9, MOST_GB, at_least=False)
            for shape, each in measured.items()
        ),
        *(
            Bar(f"{shape}: speed of export over cp's", each.share_of_cp, LEAST_OF_CP, at_least=True)
            for shape, each in measured.items()
        ),
        Bar(
            "s/GB but for graphs, most over least",
            max(costs) / min(costs),
            MOST_BETWEEN_SHAPES,
            at_least=False,
        ),
    ]


def print_report(measured: Mapping[str, Measured]) -> None:
    """Print what each step took, and what that says of the whole models."""
    rows = [
        [f"{shape}: {name}", f"{step.seconds:.0f}", f"{step.peak_bytes / 1e9:.2f}"]
        for shape, each in measured.items()
        for name, step in each.steps.items()
    ]
    measurements.print_table(["step", "s", "peak GB"], rows)
    print()
    rows = [
        [
            shape,
            f"{each.model_bytes / 1e9:.1f}",
            f"{each.graph_seconds:.1f}",
            f"{each.seconds_per_gb:.2f}",
            f"{each.share_of_cp:.2f}",
        ]
        for shape, each in measured.items()
    ]
    measurements.print_table(["slice", "GB", "graphs, s", "else, s/GB", "speed over cp's"], rows)
    for model, figures in whole(measured).items():
        print(f"{model}: {figures['gb']:,.0f} GB, some {figures['hours']:.1f} hours to export at that cost")


def whole(measured: Mapping[str, Measured]) -> dict[str, dict[str, float]]:
    """Size of the whole models in bfloat16, and the hours that exporting them would take."""
    sizes = {model: (total_bytes(shape, "bfloat16") / 1e9, of) for model, (of, shape) in WHOLE.items()}
    return {
        model: {"gb": round(gb, 1), "hours": round(gb * measured[of].seconds_per_gb / 3600, 2)}
        for model, (gb, of) in sizes.items()
        if of in measured
    }


def main() -> int:
    parsed = _parser().parse_args()
    started = measurements.begin()
    shapes = QUICK_SLICES if parsed.quick else parsed.slices or SLICES
    measured = {shape: measure(shape, parsed.folder, export_only=parsed.export_only) for shape in shapes}
    promised = [] if parsed.quick else bars(measured)
    print_report(measured)
    body = {
        "slices": {shape: each.to_json() for shape, each in measured.items()},
        "whole": whole(measured),
        "bars": [bar.to_json() for bar in promised],
    }
    default = (BUILD / "quick" if parsed.quick else RESULTS) / "full_width.json"
    measurements.write(parsed.output or default, started, body)
    return 0 if measurements.print_bars(promised) else 1


def _parser() -> argparse.ArgumentParser:
    parser = measurements.parser("Export slices of the giants. Needs 30 GB of disk.", folder="full_width")
    parser.add_argument("slices", nargs="*", metavar="SLICE", help=f"of {', '.join(SLICES)} (default: all)")
    parser.add_argument("--export-only", action="store_true", help="leave out float32, INT4 and decoding")
    return parser


if __name__ == "__main__":
    sys.exit(main())

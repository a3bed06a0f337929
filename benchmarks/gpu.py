"""What runs on this machine's GPU, whether it says what transformers says there, and how fast it is.

transformers (eager, and compiled with a static cache), ONNX Runtime on CUDA, TensorRT and TensorRT-RTX each run in a
process of their own, at switch-base-8's real size with random weights, in float32 and bfloat16. Whoever cannot run is
named with the reason. All that is needed is made here: no network, and ten minutes in all; who no longer fits into
them is named too. Exit code 1 says that tokens in float32 differ or that a promise is not kept, 2 that there is no GPU.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gpu_report
import measurements
from cases import CASES, QUICK_CASES, Case
from gpu_contestants import PARITY, PARITY_LENGTHS, Engine, Job, Precision
from measurements import BUILD, RESULTS
from pointsman.backends.tensorrt.cuda import CudaDevice
from pointsman.errors import DeviceError
from prepared import EXPORTER, prepared_bundle, prepared_checkpoint

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
FLAVOURS: tuple[Engine, ...] = ("tensorrt", "tensorrt-rtx")
STORED: Precision = (
    "bfloat16"  # of the checkpoint, as the released ones: half the bytes to write, and both precisions hold it
)
ROWS = len(PARITY_LENGTHS) * max(options.get("num_beams", 1) for options in PARITY)  # more than any timed case has
RESERVE = 15.0  # seconds kept for the report
_COMPILED_CASES = ("greedy", "batch 8", "encoder 64", "encoder 512")


@dataclass
class Clock:
    """The time that is left.

    Attributes:
        ends: on the clock of `time.monotonic`.
    """

    ends: float

    @property
    def left(self) -> float:
        """Seconds."""
        return max(self.ends - time.monotonic(), 0.0)


@dataclass
class Check:
    """One run of the check.

    Attributes:
        clock: how long it may take.
        keep: where checkpoints and bundles are kept.
        shape: of the network.
        cases: what is timed.
        repeats: timed runs of each case.
        measured: what each contestant's process printed.
        refusals: why the others did not run.
    """

    clock: Clock
    keep: Path
    shape: str
    cases: tuple[Case, ...]
    repeats: int
    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """Everything, what matters most first: bfloat16's engines are what is promised."""
        checkpoint = prepared_checkpoint(self.keep, self.shape, STORED)
        for precision in PRECISIONS:
            self._contestant(f"transformers {precision}", "transformers", checkpoint, "", precision)
        for precision in reversed(PRECISIONS):
            bundle = self._bundle(precision)
            if bundle is None:
                continue
            for form in ("fused", "portable"):
                variant = f"{form}-{precision}"
                self._contestant(f"onnxruntime {variant}", "onnxruntime", bundle, variant, precision)
            for flavour in FLAVOURS:
                self._engines(flavour, bundle, precision)
        compiled = tuple(case for case in self.cases if case.name in _COMPILED_CASES)
        self._contestant("transformers compiled bfloat16", "compiled", checkpoint, "", "bfloat16", cases=compiled)

    def _bundle(self, precision: Precision) -> Path | None:
        """Both forms at a precision; where that fails, everyone who needs them is named."""
        name, seconds = f"whatever runs the {precision} bundle", self.clock.left - RESERVE
        print(f"exporting in {precision} ({self.clock.left:.0f} s left)", file=sys.stderr, flush=True)
        try:
            return prepared_bundle(
                self.keep, self.shape, forms="both", dtype=precision, stored=STORED, timeout=max(seconds, 0.0)
            )
        except subprocess.CalledProcessError as error:
            self.refusals[name] = f"the export failed (exit code {error.returncode})"
        except subprocess.TimeoutExpired:
            self.refusals[name] = f"the export was not done after {seconds:.0f} s, when the time was up"
        return None

    def _engines(self, flavour: Engine, bundle: Path, precision: Precision) -> None:
        """Build a flavour's plans for this GPU, and run them."""
        name, variant = f"{flavour} portable-{precision}", f"portable-{precision}"
        build = [EXPORTER, "engines", str(bundle), "--flavour", flavour, "--variant", variant]
        build += ["--max-rows", str(ROWS), "--force"]
        if self._process(f"{name}: building", name, build) is not None:
            self._contestant(name, flavour, bundle, variant, precision)

    def _contestant(
        self,
        name: str,
        engine: Engine,
        path: Path,
        variant: str,
        precision: Precision,
        *,
        cases: tuple[Case, ...] | None = None,
    ) -> None:
        job = Job(engine, str(path), variant, precision, self.repeats, cases or self.cases)
        script = str(Path(__file__).with_name("gpu_contestants.py"))
        printed = self._process(name, name, [sys.executable, script, job.to_json()])
        if printed is not None:
            self.measured[name] = json.loads(printed)

    def _process(self, doing: str, name: str, command: Sequence[str]) -> str | None:
        """What a process prints; None where it fails, and then the reason is noted under `name`."""
        seconds = self.clock.left - RESERVE
        if seconds <= 0:
            self.refusals[name] = "no time was left"
            return None
        print(f"{doing} ({self.clock.left:.0f} s left)", file=sys.stderr, flush=True)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            self.refusals[name] = f"not done after {seconds:.0f} s, when the time was up"
            return None
        if done.returncode:
            self.refusals[name] = _reason(done)
            return None
        return done.stdout


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """Why a process failed: what it says on stdout as a refusal, or the last line of its stderr."""
    try:
        refusal: str = json.loads(done.stdout)["refusal"]
    except (ValueError, KeyError):
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}, and no word"]
        return lines[-1].removeprefix("pointsman-export: ")
    return refusal


def describe_gpu(device: CudaDevice) -> dict[str, Any]:
    """The GPU and its driver."""
    query = ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader,nounits", "--id=0"]
    found: dict[str, Any] = {"name": device.name, "compute_capability": device.compute_capability}
    try:
        driver, memory = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip().split(", ")
    except (OSError, ValueError, subprocess.CalledProcessError):
        return found
    return {**found, "driver": driver, "memory_mib": int(memory)}


def file_name(gpu: str) -> str:
    """A GPU's name as a file's: `NVIDIA H200` is `nvidia-h200`."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")


def main(find_gpu: Callable[[], CudaDevice] = CudaDevice) -> int:
    parsed = _parser().parse_args()
    try:
        gpu = describe_gpu(find_gpu())
    except DeviceError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return 2
    started = measurements.begin()
    shape, cases = ("tiny", QUICK_CASES) if parsed.quick else ("switch-base-8", CASES)
    check = Check(Clock(time.monotonic() + 60 * parsed.minutes), parsed.keep, shape, cases, parsed.repeats)
    check.run()
    report = gpu_report.Report(gpu, cases, check.measured, check.refusals, shape)
    folder = parsed.output or (BUILD / "quick" if parsed.quick else RESULTS)
    measurements.write(folder / f"{file_name(gpu['name'])}.json", started, report.to_json())
    (folder / f"{file_name(gpu['name'])}.md").write_text(report.to_markdown(started), encoding="utf-8")
    print(report.to_markdown(started))
    return 0 if measurements.print_bars([] if parsed.quick else report.bars()) and report.tokens_agree() else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Check and measure what runs on this machine's GPU.")
    parser.add_argument("--minutes", type=float, default=10.0, help="that it may take in all (default: 10)")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each case (default: 5)")
    parser.add_argument("--keep", type=Path, default=BUILD, metavar="FOLDER", help="where models are kept")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where to write the measurements")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: a smoke test that checks no bars")
    return parser


if __name__ == "__main__":
    sys.exit(main())

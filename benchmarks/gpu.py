"""What runs on this machine's GPU, whether it says what transformers says there, and how fast it is.

transformers (eager, and compiled with a static cache), ONNX Runtime on CUDA, TensorRT and TensorRT-RTX each run in a
process of their own, at switch-base-8's real size with random weights, in float32 and bfloat16; and the fastest of
ours with 128 experts too. Whoever cannot run is named with the reason. All that is needed is made here: no network, and
eight minutes in all; who no longer fits into them is named too.

In float32 tokens are compared. In bfloat16 they would prove nothing: a random network's tokens turn on the last bits of
its scores, and three correct programs say three things. There the trained demo model decodes documents of C4 that are
forced upon it, and its loss is held to that of float32.

Exit code 1 says that tokens in float32 or losses in bfloat16 differ or that a promise is not kept, 2 that there is no
GPU.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gpu_report
import measurements
from cases import GPU_CASES, QUICK_CASES, Case
from contestants.forcing import Document
from contestants.job import Device, Engine, Job, Precision
from contestants.searches import SEARCHED_LENGTHS, SEARCHES
from measurements import BUILD, RESULTS
from pointsman.backends.gpu.cuda import CudaDevice
from pointsman.errors import DeviceError
from pointsman_calib.corpus.text import Corpus
from prepared import EXPORTER, prepared_bundle, prepared_checkpoint
from shapes import SHAPES

EXAMPLES = Path(__file__).parents[1] / "examples"
DEMO_MODEL, TEXTS = EXAMPLES / "demo_model", EXAMPLES / "data" / "c4-sample-validation.json.gz"
DOCUMENTS = 12  # all that the sample has
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
EXACT, LOW = PRECISIONS
FLAVOURS: tuple[Engine, ...] = ("tensorrt", "tensorrt-rtx")
STORED = LOW  # of the checkpoint, as the released ones: half the bytes to write, and both precisions hold it
ROWS = len(SEARCHED_LENGTHS) * max(options.get("num_beams", 1) for options in SEARCHES)  # more than timed cases have
WARM_UPS = 2  # beside the first run: a step is recorded when it comes the second time, and replayed the third
MIXED = 48  # requests
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
        device: `cuda`, or `cpu` to try the script.
        measured: what each contestant's process printed.
        forced: what each contestant noted of the documents forced upon the demo model.
        refusals: why the others did not run.
        grown: what ONNX Runtime printed for as many experts as `wide` has.
        doubts: by contestant, the nearest choice of each sequence that is not that of transformers.
        mixed: what ONNX Runtime found of requests in shared steps.
    """

    clock: Clock
    keep: Path
    shape: str
    wide: str
    cases: tuple[Case, ...]
    repeats: int
    device: Device = "cuda"
    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    forced: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    grown: dict[str, Any] = field(default_factory=dict)
    doubts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    mixed: dict[str, Any] = field(default_factory=dict)

    def run(self) -> None:
        """Everything, what matters most first: bfloat16's engines are what is promised."""
        checkpoint = prepared_checkpoint(self.keep, self.shape, STORED)
        for precision in PRECISIONS:
            self._time(self._transformers(checkpoint, precision))
        self._each_engine(checkpoint, LOW, self._time)
        self._force_documents()
        self._each_engine(checkpoint, EXACT, self._time)
        self._doubt(checkpoint)
        self._mix()
        self._grow()
        compiled = tuple(case for case in self.cases if case.name in _COMPILED_CASES)
        self._time(replace(self._transformers(checkpoint, LOW), engine="compiled", cases=compiled))

    def _transformers(self, checkpoint: Path, precision: Precision) -> Job:
        return Job(engine="transformers", path=str(checkpoint), precision=precision, device=self.device)

    def _each_engine(self, checkpoint: Path, precision: Precision, do: Callable[[Job], None]) -> None:
        """Export a checkpoint, build plans for this GPU, and do something with its variant on each engine."""
        bundle = self._bundle(checkpoint, precision)
        if bundle is None:
            return
        variant = f"portable-{precision}"
        job = Job(engine="onnxruntime", path=str(bundle), variant=variant, precision=precision, device=self.device)
        do(job)
        for flavour in FLAVOURS:
            planned = replace(job, engine=flavour)
            if self._build(planned):
                do(planned)

    def _doubt(self, checkpoint: Path) -> None:
        """Ask transformers how near the choices are in sequences that are not its own."""
        reference = f"transformers {EXACT}"
        for name in [name for name in self.measured if name.endswith(EXACT) and name != reference]:
            if reference not in self.measured:
                continue
            apart = gpu_report.differing(name, self.measured, self.cases, SHAPES[self.shape].vocab_size)
            asked = replace(self._transformers(checkpoint, EXACT), doubted=tuple(apart))
            printed = self._contestant(asked, f"doubts about {name}") if apart else None
            if printed is not None:
                self.doubts[name] = printed["doubts"]

    def _mix(self) -> None:
        """Decode requests together that come and go, on ONNX Runtime, by the demo model."""
        bundle = self._bundle(DEMO_MODEL, EXACT)
        if bundle is None:
            return
        job = Job(engine="onnxruntime", path=str(bundle), variant=f"portable-{EXACT}", device=self.device, mixed=MIXED)
        printed = self._contestant(job, f"{name_of(job)}, shared steps")
        if printed is not None:
            self.mixed = printed["mixed"]

    def _grow(self) -> None:
        """Time one input with more experts."""
        bundle = (
            self._bundle(prepared_checkpoint(self.keep, self.wide, STORED), LOW) if self.clock.left > RESERVE else None
        )
        if bundle is None:
            return
        job = Job(engine="onnxruntime", path=str(bundle), variant=f"portable-{LOW}", precision=LOW, device=self.device)
        timed = replace(job, cases=self.cases[:1], warm_ups=WARM_UPS, repeats=self.repeats)
        self.grown = self._contestant(timed, f"{name_of(job)}, {self.wide}") or {}

    def _force_documents(self) -> None:
        """Losses of the demo model in low precision, and transformers' in float32 for what they are held to."""
        bundle = self._bundle(DEMO_MODEL, LOW)
        if bundle is None:
            return
        documents = read_documents(bundle)

        def force(job: Job) -> None:
            printed = self._contestant(replace(job, documents=documents), f"{name_of(job)}, demo model")
            if printed is not None:
                self.forced[name_of(job)] = printed["forced"]

        for precision in PRECISIONS:
            force(self._transformers(DEMO_MODEL, precision))
        self._each_engine(DEMO_MODEL, LOW, force)

    def _time(self, job: Job) -> None:
        """Run the cases, and in float32 the searches whose tokens are compared."""
        is_eager = job.engine == "transformers"
        timed = replace(
            job,
            cases=job.cases or self.cases,
            warm_ups=WARM_UPS,
            repeats=self.repeats,
            search=job.precision == EXACT,
            bandwidth=is_eager,
        )
        printed = self._contestant(timed, name_of(job))
        if printed is not None:
            self.measured[name_of(job)] = printed

    def _bundle(self, checkpoint: Path, precision: Precision) -> Path | None:
        """The portable form at a precision; where that fails, everyone who needs it is named."""
        name, seconds = f"whatever runs {checkpoint.name} in {precision}", self.clock.left - RESERVE
        print(
            f"{checkpoint.name}: exporting in {precision} ({self.clock.left:.0f} s left)", file=sys.stderr, flush=True
        )
        try:
            return prepared_bundle(self.keep, checkpoint, forms="portable", dtype=precision, timeout=max(seconds, 0.0))
        except subprocess.CalledProcessError as error:
            self.refusals[name] = f"the export failed (exit code {error.returncode})"
        except subprocess.TimeoutExpired:
            self.refusals[name] = f"the export was not done after {seconds:.0f} s, when the time was up"
        return None

    def _build(self, job: Job) -> bool:
        """Build a flavour's plans of a variant for this GPU."""
        command = [EXPORTER, "engines", job.path, "--flavour", job.engine, "--variant", job.variant]
        command += ["--max-rows", str(ROWS), "--force"]
        return self._process(f"{name_of(job)}: building", name_of(job), command) is not None

    def _contestant(self, job: Job, name: str) -> dict[str, Any] | None:
        script = str(Path(__file__).with_name("contestant.py"))
        printed = self._process(name, name, [sys.executable, script], given=job.to_json())
        return None if printed is None else json.loads(printed)

    def _process(self, doing: str, name: str, command: Sequence[str], *, given: str = "") -> str | None:
        """What a process prints; None where it fails, and then the reason is noted under `name`."""
        seconds = self.clock.left - RESERVE
        if seconds <= 0:
            self.refusals[name] = "no time was left"
            return None
        print(f"{doing} ({self.clock.left:.0f} s left)", file=sys.stderr, flush=True)
        try:
            done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            self.refusals[name] = f"not done after {seconds:.0f} s, when the time was up"
            return None
        if done.returncode:
            self.refusals[name] = _reason(done)
            return None
        return done.stdout


def name_of(job: Job) -> str:
    """A contestant, with its precision at the end."""
    if job.engine == "compiled":
        return f"transformers compiled {job.precision}"
    return f"{job.engine} {job.variant or job.precision}"


def read_documents(bundle: Path) -> tuple[Document, ...]:
    """Documents of C4 as a bundle's model sees them, with T5's spans corrupted."""
    read = Corpus.read(bundle, [TEXTS], documents=DOCUMENTS)
    return tuple(Document(tuple(each.inputs.tolist()), tuple(each.targets.tolist())) for each in read.examples)


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
    shapes = ("tiny", "tiny-16") if parsed.quick else ("switch-base-8", "switch-base-128")
    cases = QUICK_CASES if parsed.quick else GPU_CASES
    check = Check(Clock(time.monotonic() + 60 * parsed.minutes), parsed.keep, *shapes, cases, parsed.repeats)
    check.run()
    report = gpu_report.Report(
        gpu, cases, check.measured, check.forced, check.refusals, shapes[0], check.grown, check.doubts, check.mixed
    )
    folder = parsed.output or (BUILD / "quick" if parsed.quick else RESULTS)
    measurements.write(folder / f"{file_name(gpu['name'])}.json", started, report.to_json())
    (folder / f"{file_name(gpu['name'])}.md").write_text(report.to_markdown(started), encoding="utf-8")
    print(report.to_markdown(started))
    kept = measurements.print_bars([] if parsed.quick else report.bars())
    return 0 if kept and report.tokens_agree() and report.losses_agree() else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Check and measure what runs on this machine's GPU.")
    parser.add_argument("--minutes", type=float, default=8.0, help="that it may take in all (default: 8)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each case (default: 3)")
    parser.add_argument("--keep", type=Path, default=BUILD, metavar="FOLDER", help="where models are kept")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where to write the measurements")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: a smoke test that checks no bars")
    return parser


if __name__ == "__main__":
    sys.exit(main())

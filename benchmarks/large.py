"""Models larger than memory: what decoding takes when experts stay on disk until a token reaches them.

A model of switch-base's width with as many experts as are asked for is written in bfloat16, exported in bfloat16,
quantized to int8 and int4 without a float32 copy, and decoded greedily by itself: in int8 three times, with all in
memory, with `max_memory` that leaves room for all, and with `max_memory` of a part of its size; in int4, which takes no
limit, once. Each begins with nothing of the weights in the kernel's cache: the first round over the inputs is cold, the
next warm. switch-base-8 goes the same way beside it. What the published models would take follows by arithmetic. What
is made is removed again. Exit code 1 says that a promise is not kept.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import measurements
from full_width import forget
from large_arithmetic import Published, published
from measurements import BUILD, RESULTS, Bar
from pointsman.bundle import Architecture, names
from prepared import CALIBRATOR, EXPORTER
from shapes import SHAPES, switch, total_bytes, write_checkpoint
from watched import Watched, watch

CHILD: Final = Path(__file__).with_name("mapped.py")
BESIDE: Final = "switch-base-8"
SHARE: Final = 0.6  # of the variant's size, what it is limited to, beside the libraries
LIBRARIES: Final = 200_000_000
INTERVAL: Final = 0.1  # seconds between samples of memory
KEPT: Final = 5  # of so many samples, one is written down
KB: Final = 1024
SCHEMES: Final = ("int8", "int4")
IN_INT4: Final = "in int4, all in memory"
MOST_QUANTIZE_GB, MOST_OVER_LIMIT, MOST_ANONYMOUS_GB, MOST_RESIDENT_GB = 1.5, 1.1, 3.0, 6.0


@dataclass(frozen=True, slots=True)
class Decoded:
    """One run over the inputs.

    Attributes:
        max_memory: what it was limited to, in bytes; None for no limit.
        load_seconds: of loading.
        rounds: for each round, for each input, seconds to the first token and to the others, and the tokens.
        memory: seconds since it began, and anonymous and file-backed resident bytes, every so often.
        peak_bytes: the largest resident memory, as the kernel counts it.
    """

    max_memory: int | None
    load_seconds: float
    rounds: Sequence[Sequence[Mapping[str, Any]]]
    memory: Sequence[tuple[float, int, int]]
    peak_bytes: int

    def rate(self, number: int) -> float:
        """Tokens a second behind the first, in a round: of all inputs together where it is cold, else the median's."""
        each = [(len(one["tokens"]) - 1, float(one["other_seconds"])) for one in self.rounds[number]]
        if number == 0:
            return sum(count for count, _ in each) / sum(seconds for _, seconds in each)
        return median(count / seconds for count, seconds in each)

    def first(self, number: int) -> float:
        """Seconds to the first token, the median of a round."""
        return median(float(one["first_seconds"]) for one in self.rounds[number])

    @property
    def anonymous_peak(self) -> int:
        """The largest sample of anonymous memory."""
        return max(anonymous for _, anonymous, _ in self.memory)

    @property
    def resident_peak(self) -> int:
        """The largest sample of resident memory."""
        return max(anonymous + mapped for _, anonymous, mapped in self.memory)

    @property
    def tokens(self) -> list[list[int]]:
        """What came out, of every input in every round."""
        return [one["tokens"] for each in self.rounds for one in each]

    def to_json(self) -> dict[str, Any]:
        """Bytes, seconds and tokens a second."""
        return {
            "max_memory": self.max_memory,
            "load_seconds": round(self.load_seconds, 2),
            "cold_tokens_per_second": round(self.rate(0), 1),
            "warm_tokens_per_second": round(self.rate(-1), 1),
            "cold_first_token_seconds": round(self.first(0), 3),
            "warm_first_token_seconds": round(self.first(-1), 3),
            "peak_bytes": self.peak_bytes,
            "anonymous_peak_bytes": self.anonymous_peak,
            "memory": [[round(at, 2), anonymous, mapped] for at, anonymous, mapped in self.memory[::KEPT]],
            "seconds": [[[one["first_seconds"], one["other_seconds"]] for one in each] for each in self.rounds],
        }


@dataclass(frozen=True, slots=True)
class Measured:
    """What was done with a model.

    Attributes:
        source_bytes: of its weights in bfloat16.
        bytes: of each scheme's variant.
        export: the export in bfloat16, watched.
        quantize: quantizing to each scheme, watched.
        disk_rate: bytes a second at which its weights are read from disk, one after another.
        runs: by what they are limited to.
    """

    source_bytes: int
    bytes: Mapping[str, int]
    export: Watched
    quantize: Mapping[str, Watched]
    disk_rate: float
    runs: Mapping[str, Decoded]

    @property
    def steps(self) -> dict[str, Watched]:
        """What makes the variants, by name."""
        return {"export": self.export, **{f"quantize to {scheme}": step for scheme, step in self.quantize.items()}}

    def to_json(self) -> dict[str, Any]:
        """Bytes, and seconds."""
        return {
            "bfloat16_bytes": self.source_bytes,
            **{f"{scheme}_bytes": size for scheme, size in self.bytes.items()},
            "disk_bytes_per_second": round(self.disk_rate),
            **{
                name: {"seconds": round(step.seconds, 1), "peak_bytes": step.peak_bytes}
                for name, step in self.steps.items()
            },
            "runs": {name: run.to_json() for name, run in self.runs.items()},
        }


def measure(architecture: Architecture, folder: Path, options: Sequence[str]) -> Measured:
    """Write a model, export, quantize and decode it, and remove it."""
    checkpoint, bundle = folder / "checkpoint", folder / "bundle"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        say(f"writing {total_bytes(architecture, 'bfloat16') / 1e9:.1f} GB")
        write_checkpoint(checkpoint, architecture, dtype="bfloat16")
        command = [EXPORTER, "bundle", str(checkpoint), "-o", str(bundle), "--form", "fused", "--dtype", "bfloat16"]
        export = watched(command)
        shutil.rmtree(checkpoint)
        quantize = {scheme: watched([CALIBRATOR, "quantize", str(bundle), "--scheme", scheme]) for scheme in SCHEMES}
        # The runs read integers alone, and check no hashes.
        (bundle / names.weights_file("bfloat16")).unlink()
        sizes = {scheme: (bundle / names.weights_file(scheme)).stat().st_size for scheme in SCHEMES}
        rate = read_rate(bundle / names.weights_file("int8"))
        limits = {"all in memory": None, "room for all": 1 << 40, "limited": int(SHARE * sizes["int8"]) + LIBRARIES}
        runs = {name: decoded(bundle, "int8", limit, options) for name, limit in limits.items()}
        runs[IN_INT4] = decoded(bundle, "int4", None, options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Measured(total_bytes(architecture, "bfloat16"), sizes, export, quantize, rate, runs)


def watched(command: Sequence[str]) -> Watched:
    """Run a command under watch.

    Raises:
        CalledProcessError: it fails.
    """
    say(" ".join(command[:2]))
    done = watch(command, lambda: "all")
    if done.exit_code:
        raise subprocess.CalledProcessError(done.exit_code, command)
    return done


def read_rate(path: Path) -> float:
    """Bytes a second at which a file comes from the disk."""
    forget(path.parent)
    began, size = time.perf_counter(), 0
    with path.open("rb", buffering=0) as file:
        while content := file.read(1 << 24):
            size += len(content)
    return size / (time.perf_counter() - began)


def decoded(bundle: Path, scheme: str, limit: int | None, options: Sequence[str]) -> Decoded:
    """Decode in a process of its own, cold at first, with its memory watched.

    Raises:
        CalledProcessError: it fails.
    """
    say(f"decoding in {scheme}, {'all in memory' if limit is None else f'at most {limit / 1e9:.1f} GB'}")
    forget((bundle / names.weights_file(scheme)).parent)
    command = [sys.executable, str(CHILD), str(bundle), f"fused-{scheme}", *options]
    command += [] if limit is None else ["--max-memory", str(limit)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    memory = list(samples(process))
    assert process.stdout is not None
    said = process.stdout.read()
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, command)
    found = json.loads(said)
    peak = max(at for *_, at in memory)
    sampled = [(at, anonymous, mapped) for at, anonymous, mapped, _ in memory]
    return Decoded(limit, found["load_seconds"], found["rounds"], sampled, peak)


def samples(process: "subprocess.Popen[str]") -> Iterator[tuple[float, int, int, int]]:
    """Until a process ends: seconds, its anonymous and file-backed resident bytes, and the peak of both so far."""
    began = time.perf_counter()
    while process.poll() is None:
        try:
            rollup = fields(Path(f"/proc/{process.pid}/smaps_rollup").read_text())
            peak = fields(Path(f"/proc/{process.pid}/status").read_text()).get("VmHWM", 0)
        except (ProcessLookupError, FileNotFoundError):
            return
        if "Rss" in rollup:
            anonymous = rollup["Anonymous"]
            yield time.perf_counter() - began, anonymous, rollup["Rss"] - anonymous, peak
        time.sleep(INTERVAL)


def fields(text: str) -> dict[str, int]:
    """The sizes that a file of /proc lists, in bytes."""
    lines = (line.split() for line in text.splitlines())
    return {line[0].rstrip(":"): int(line[1]) * KB for line in lines if line[-1:] == ["kB"]}


def bars(large: Measured) -> list[Bar]:
    """What is promised: quantizing in bounded memory, and decoding within the limit, with the same tokens."""
    limited, whole = large.runs["limited"], large.runs["all in memory"]
    assert limited.max_memory is not None
    same = all(run.tokens == whole.tokens for name, run in large.runs.items() if name != IN_INT4)
    quantizing = max(step.peak_bytes for step in large.quantize.values())
    return [
        Bar("peak of quantizing, GB", quantizing / 1e9, MOST_QUANTIZE_GB, at_least=False),
        Bar("peak over the limit", limited.peak_bytes / limited.max_memory, MOST_OVER_LIMIT, at_least=False),
        Bar("anonymous peak, GB", limited.anonymous_peak / 1e9, MOST_ANONYMOUS_GB, at_least=False),
        Bar("resident peak, GB", limited.peak_bytes / 1e9, MOST_RESIDENT_GB, at_least=False),
        Bar("runs in int8 with the same tokens", float(same), 1.0, at_least=True),
    ]


def print_report(measured: Mapping[str, Measured], whole: Sequence[Published]) -> None:
    """Print sizes, memory and speeds, and what published models would take."""
    rows = [
        [
            f"{model}: {name}",
            f"{run.load_seconds:.1f}",
            f"{run.rate(0):.1f}",
            f"{run.rate(-1):.1f}",
            f"{run.first(0):.2f}",
            f"{run.first(-1):.2f}",
            f"{run.anonymous_peak / 1e9:.2f}",
            f"{run.peak_bytes / 1e9:.2f}",
            "" if run.max_memory is None else f"{run.max_memory / 1e9:.2f}",
        ]
        for model, each in measured.items()
        for name, run in each.runs.items()
    ]
    header = ["", "load, s", "cold tok/s", "warm", "cold first, s", "warm", "anonymous GB", "peak GB", "limit GB"]
    measurements.print_table(header, rows)
    print()
    rows = [
        [name, *(f"{size / 1e9:.2f}" for size in (each.source_bytes, *each.bytes.values(), each.disk_rate))]
        + [f"{value:.2f}" for step in each.steps.values() for value in (step.seconds, step.peak_bytes / 1e9)]
        for name, each in measured.items()
    ]
    steps = [*measured.values()][-1].steps
    header = ["model", "bfloat16 GB", *(f"{scheme} GB" for scheme in SCHEMES), "disk GB/s"]
    measurements.print_table(header + [cell for step in steps for cell in (f"{step} s", "peak GB")], rows)
    print()
    rows = [each.row() for each in whole]
    measurements.print_table(Published.HEADER, rows)


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main() -> int:
    parsed = _parser().parse_args()
    started = measurements.begin()
    if parsed.quick:
        shapes = {"tiny-16": SHAPES["tiny-16"]}
        options = ["--inputs", "2", "--tokens", "8", "--new-tokens", "4"]
    else:
        shapes = {BESIDE: SHAPES[BESIDE], f"base-{parsed.experts}": switch(num_experts=parsed.experts)}
        options = ["--threads", str(parsed.threads)] if parsed.threads else []
    measured = {name: measure(shape, parsed.folder, options) for name, shape in shapes.items()}
    large = [*measured.values()][-1]
    promised = [] if parsed.quick else bars(large)
    whole = published(large.disk_rate)
    print_report(measured, whole)
    body = {
        "models": {name: each.to_json() for name, each in measured.items()},
        "published": [each.to_json() for each in whole],
        "bars": [bar.to_json() for bar in promised],
    }
    default = (BUILD / "quick" if parsed.quick else RESULTS) / "large.json"
    measurements.write(parsed.output or default, started, body)
    return 0 if measurements.print_bars(promised) else 1


def _parser() -> argparse.ArgumentParser:
    parser = measurements.parser(
        "Decode a model larger than its memory. Needs 9 GB of disk for 32 experts, and 31 GB for 128.", folder="large"
    )
    parser.add_argument("--experts", type=int, default=32, help="of each sparse layer (default: 32)")
    parser.add_argument("--threads", type=int, help="(default: the engine's)")
    return parser


if __name__ == "__main__":
    sys.exit(main())

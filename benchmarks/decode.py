"""Decode speed at switch-base-8's real size, random weights: transformers against Pointsman, side by side.

Every contestant runs in a process of its own, one after the other within a round; rounds are interleaved and their
order alternates, so that a machine that slows down or warms up slows everyone. Figures are medians over rounds. The
dense floor is the same model without sparse layers, from the same exporter: what no Mixture of Experts can beat.
The roofline is the least time that a request takes at the speeds at which this machine reads memory and multiplies
matrices, measured in every round: what no float32 engine can beat. Exit code 1 says that a promise about a ratio is not
kept.

`--variants fused-float32,fused-int8,fused-int4` also runs quantized variants, rounded to nearest.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import measurements
import roofline
from cases import CASES, QUICK_CASES, Case
from contestants.job import Job
from measurements import BUILD, RESULTS, Bar
from pointsman.bundle import Architecture, read_manifest
from prepared import prepared_bundle, prepared_checkpoint, prepared_variant
from roofline import Speeds

TRANSFORMERS, FLOOR, MAIN = "transformers", "dense floor", "fused-float32"
LEAST_SPEEDUPS = {
    MAIN: {"greedy": 2.3, "batch 8": 2.3, "4 beams": 3.0, "encoder 512": 1.4},
    "fused-int8": {"greedy": 5.0, "batch 8": 3.5, "4 beams": 5.0},
    "fused-int4": {"greedy": 7.0, "batch 8": 4.0, "4 beams": 6.0},
}
SCHEMES = {"fused-int8": "int8", "fused-int4": "int4"}
VARIANTS = (MAIN, "portable-float32", *SCHEMES)
MOST_OVER_FLOOR = {"greedy": 1.2}
MOST_LOAD_SECONDS = {"fused-int8": 2.0}
MOST_SIZE = {"fused-int8": 0.27, "fused-int4": 0.16}  # on disk, as a part of float32's


@dataclass(frozen=True, slots=True)
class Measured:
    """All rounds of one contestant.

    Attributes:
        rounds: what its process printed, round by round.
        bytes: that it takes on disk.
    """

    rounds: list[dict[str, Any]]
    bytes: int

    def seconds(self, case: str) -> float:
        """Of one request: the median over rounds."""
        return measurements.median_over_rounds([measured["cases"][case]["seconds"] for measured in self.rounds])

    def tokens(self, case: str) -> list[list[int]]:
        """What it generated."""
        tokens: list[list[int]] = self.rounds[0]["cases"][case]["tokens"]
        return tokens

    def middle(self, key: str) -> float:
        """The median over rounds of a number that each process reports once."""
        return measurements.median_over_rounds([[measured[key]] for measured in self.rounds])

    def to_json(self, cases: Sequence[Case]) -> dict[str, Any]:
        """Medians and raw samples."""
        return {
            "bytes": self.bytes,
            "load_seconds": self.middle("load_seconds"),
            "peak_bytes": self.middle("peak_bytes"),
            "raw_load_seconds": [measured["load_seconds"] for measured in self.rounds],
            "cases": {
                case.name: {
                    "seconds": self.seconds(case.name),
                    "raw_seconds_by_round": [measured["cases"][case.name]["seconds"] for measured in self.rounds],
                }
                for case in cases
            },
        }


def jobs(parsed: argparse.Namespace, cases: tuple[Case, ...]) -> dict[str, Job]:
    """The contestants, by name; what they load is made first where it is not there."""
    shape, dense = ("tiny", "tiny-dense") if parsed.quick else ("switch-base-8", "dense-base")
    checkpoint = prepared_checkpoint(parsed.keep, shape)
    bundle = prepared_bundle(parsed.keep, checkpoint, forms="both")
    floor = prepared_bundle(parsed.keep, prepared_checkpoint(parsed.keep, dense), forms="fused")
    common: dict[str, Any] = {"threads": parsed.threads, "repeats": parsed.repeats, "cases": cases}
    found = {TRANSFORMERS: Job(engine="transformers", path=str(checkpoint), **common)}
    for variant in parsed.variants.split(","):
        if variant in SCHEMES:
            prepared_variant(bundle, SCHEMES[variant])
        found[variant] = Job(engine="onnxruntime", path=str(bundle), variant=variant, **common)
    found[FLOOR] = Job(engine="onnxruntime", path=str(floor), variant=MAIN, **common)
    return found


def run_rounds(contestants: dict[str, Job], rounds: int, threads: int) -> tuple[dict[str, Measured], list[Speeds]]:
    """Run every contestant once a round; also measure how fast the machine was in each."""
    measured = {name: Measured([], size_on_disk(job)) for name, job in contestants.items()}
    speeds = []
    for number in range(rounds):
        speeds.append(Speeds.from_json(_printed("roofline.py", "--threads", str(threads))))
        names = list(contestants) if number % 2 == 0 else list(reversed(contestants))
        for name in names:
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            measured[name].rounds.append(json.loads(_printed("contestant.py", given=contestants[name].to_json())))
    return measured, speeds


def size_on_disk(job: Job) -> int:
    """Bytes of a checkpoint's weights, or of a variant's files."""
    if job.engine == "transformers":
        return sum(file.stat().st_size for file in Path(job.path).glob("*.safetensors"))
    return sum(file.bytes for file in read_manifest(Path(job.path)).variants[job.variant].files)


def _printed(script: str, *arguments: str, given: str = "") -> str:
    """What a script beside this one prints, run in a process of its own and given something on stdin."""
    command = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
    return subprocess.run(command, input=given, stdout=subprocess.PIPE, text=True, check=True).stdout


def roofline_seconds(
    architecture: Architecture, measured: dict[str, Measured], cases: Sequence[Case], machine: Speeds
) -> dict[str, float]:
    """The least that each case takes, with the experts that its tokens chose."""
    observed = measured[TRANSFORMERS].rounds[0]["cases"]
    return {
        case.name: roofline.least_seconds(architecture, case, observed[case.name]["routing"], machine) for case in cases
    }


def equal_tokens(measured: dict[str, Measured], cases: Sequence[Case]) -> dict[str, dict[str, list[int]]]:
    """For each float variant and case, how many tokens are those of transformers, and of how many."""
    found: dict[str, dict[str, list[int]]] = {}
    for name in measured.keys() - {TRANSFORMERS, FLOOR, *SCHEMES}:
        found[name] = {}
        for case in (case for case in cases if case.new_tokens):
            theirs, ours = measured[TRANSFORMERS].tokens(case.name), measured[name].tokens(case.name)
            pairs = [pair for rows in zip(theirs, ours, strict=True) for pair in zip(*rows, strict=True)]
            found[name][case.name] = [sum(one == other for one, other in pairs), len(pairs)]
    return found


def bars(measured: dict[str, Measured]) -> list[Bar]:
    """What is promised of the variants that were measured."""

    def ratio(case: str, over: str, under: str) -> float:
        return measured[over].seconds(case) / measured[under].seconds(case)

    faster = [
        Bar(f"{name}: times the speed of transformers, {case}", ratio(case, TRANSFORMERS, name), limit, at_least=True)
        for name in (name for name in LEAST_SPEEDUPS if name in measured)
        for case, limit in LEAST_SPEEDUPS[name].items()
    ]
    slower = [
        Bar(f"{MAIN}: times the time of the dense floor, {case}", ratio(case, MAIN, FLOOR), limit, at_least=False)
        for case, limit in (MOST_OVER_FLOOR.items() if MAIN in measured else ())
    ]
    loading = [
        Bar(f"{name}: seconds to load", measured[name].middle("load_seconds"), limit, at_least=False)
        for name, limit in MOST_LOAD_SECONDS.items()
        if name in measured
    ]
    smaller = [
        Bar(f"{name}: size beside {MAIN}", measured[name].bytes / measured[MAIN].bytes, limit, at_least=False)
        for name, limit in MOST_SIZE.items()
        if name in measured
    ]
    return faster + slower + loading + smaller


def print_report(measured: dict[str, Measured], cases: Sequence[Case], least_seconds: dict[str, float]) -> None:
    """Print seconds, milliseconds per generated token, and the ratio to transformers and to the floor."""
    rows = []
    for case in cases:
        seconds_of = {name: contestant.seconds(case.name) for name, contestant in measured.items()}
        seconds_of["roofline"] = least_seconds[case.name]
        for name, seconds in seconds_of.items():
            per_token = f"{seconds / case.new_tokens * 1e3:.1f}" if case.new_tokens else ""
            faster, slower = seconds_of[TRANSFORMERS] / seconds, seconds / seconds_of[FLOOR]
            rows.append([case.name, name, f"{seconds:.3f}", per_token, f"{faster:.2f}x", f"{slower:.2f}x"])
    measurements.print_table(["case", "contestant", "s", "ms/token", "speed of transformers", "time of floor"], rows)
    print()
    loads = [
        [
            name,
            f"{each.bytes / 1e9:.2f}",
            f"{each.middle('load_seconds'):.2f}",
            f"{each.middle('peak_bytes') / 1e9:.2f}",
        ]
        for name, each in measured.items()
    ]
    measurements.print_table(["contestant", "GB on disk", "load s", "peak GB"], loads)


def main() -> int:
    parsed = _parser().parse_args()
    cases = QUICK_CASES if parsed.quick else CASES
    contestants = jobs(parsed, cases)
    started = measurements.begin()
    measured, speeds = run_rounds(contestants, parsed.rounds, parsed.threads)
    architecture = read_manifest(Path(contestants[MAIN].path)).architecture
    machine = Speeds(median(s.bytes_a_second for s in speeds), median(s.operations_a_second for s in speeds))
    least_seconds = roofline_seconds(architecture, measured, cases, machine)
    equal = equal_tokens(measured, cases)
    promised = [] if parsed.quick else bars(measured)
    print_report(measured, cases, least_seconds)
    for name, counts in equal.items():
        counted = ", ".join(f"{case} {same} of {total}" for case, (same, total) in counts.items())
        print(f"tokens of {name} equal to those of transformers: {counted}")
    body = {
        "settings": {"threads": parsed.threads, "rounds": parsed.rounds, "repeats": parsed.repeats},
        "cases": {
            case.name: {"batch": case.batch, "source": case.source, "new_tokens": case.new_tokens, "beams": case.beams}
            for case in cases
        },
        "contestants": {name: each.to_json(cases) for name, each in measured.items()},
        "roofline": {
            **asdict(machine),
            "raw_speeds_by_round": [asdict(each) for each in speeds],
            "seconds": least_seconds,
        },
        "equal_tokens": equal,
        "routing": {case.name: measured[TRANSFORMERS].rounds[0]["cases"][case.name]["routing"] for case in cases},
        "bars": [bar.to_json() for bar in promised],
    }
    measurements.write(parsed.output or (BUILD / "quick" if parsed.quick else RESULTS) / "decode.json", started, body)
    return 0 if measurements.print_bars(promised) else 1


def _parser() -> argparse.ArgumentParser:
    parser = measurements.parser("Measure decode speed against transformers and a dense floor.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each case in a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--variants", default=",".join(VARIANTS), help="of the bundle, with commas")
    parser.add_argument("--keep", type=Path, default=BUILD, metavar="FOLDER", help="where models are kept")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""What a token costs as things grow: experts, rows that share a step, tokens of the source, tokens of the output.

Steps of a decoder are timed on the CPU with random tokens, so that each step reaches other experts, in interleaved
rounds; figures are medians over rounds. All but experts is measured at switch-base-8's size. More experts are measured
on a decoder of switch-base's size in which two of six sparse blocks are sparse, behind a short encoder: 128 experts
then take 5 GB in float32 where base-128 takes 30. What more experts cost more there is taken three times, as six
blocks would. Exit code 1 says that the promise is not kept.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import machine
import measurements
import steps
from measurements import BUILD, RESULTS, Bar
from pointsman import SwitchModel
from prepared import prepared_bundle, prepared_checkpoint, prepared_quantized, prepared_variant

EXPERTS = {8: "deep-decoder-8", 32: "deep-decoder-32", 128: "deep-decoder-128"}
QUICK_EXPERTS = {8: "tiny", 16: "tiny-16"}
ALL_SPARSE_BLOCKS = 3  # times as many as those shapes have
ROWS = (1, 2, 4, 8, 16, 32)
LENGTHS = (16, 32, 64, 128, 256, 512)
SCHEME = "int8"
MOST_BY_EXPERTS = 1.1


@dataclass(frozen=True, slots=True)
class Point:
    """What is measured.

    Attributes:
        grown: what grows.
        size: how much of it there is.
        seconds: measures a token once.
    """

    grown: str
    size: int
    seconds: Callable[[], float]


def points(parsed: argparse.Namespace) -> list[Point]:
    """Everything that is measured, of models that are made first where they are not there, and loaded."""
    experts = QUICK_EXPERTS if parsed.quick else {number: EXPERTS[number] for number in sorted(parsed.experts)}
    found = []
    for number, shape in experts.items():
        grown = _loaded(prepared_quantized(parsed.keep / "growth", shape, SCHEME), parsed.threads)
        found.append(Point("experts", number, _of(grown)))
    checkpoint = prepared_checkpoint(parsed.keep, "tiny" if parsed.quick else "switch-base-8")
    bundle = prepared_bundle(parsed.keep, checkpoint, forms="both")
    prepared_variant(bundle, SCHEME)
    base = _loaded(bundle, parsed.threads)
    found += [Point("rows", rows, _of(base, rows=rows)) for rows in ROWS]
    found += [Point("source", length, _of(base, source=length)) for length in LENGTHS]
    found += [Point("output", length, _of(base, new_tokens=length)) for length in LENGTHS]
    return found


def _loaded(bundle: Path, threads: int) -> SwitchModel:
    return SwitchModel.load(bundle, "cpu", f"fused-{SCHEME}", threads=threads, verify=False)


def _of(model: SwitchModel, *, rows: int = 1, source: int = steps.SOURCE, new_tokens: int = 32) -> Callable[[], float]:
    """Measures a step, for each row that shares it: one token."""
    return lambda: steps.measure(model, rows, source=(source,), new_tokens=new_tokens)[1] / rows


def run_rounds(found: Sequence[Point], rounds: int) -> dict[str, dict[int, list[float]]]:
    """Seconds a token in each round, by what grows and its size; every other round goes backwards."""
    measured: dict[str, dict[int, list[float]]] = {}
    for point in found:
        point.seconds()  # packs weights and finds memory
        measured.setdefault(point.grown, {})[point.size] = []
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for point in found if number % 2 == 0 else reversed(found):
            measured[point.grown][point.size].append(point.seconds())
    return measured


def growth_by_experts(seconds: dict[int, float]) -> dict[int, float]:
    """Times what a token of the fewest experts costs, where all sparse blocks have so many experts."""
    fewest = seconds[min(seconds)]
    return {number: 1 + ALL_SPARSE_BLOCKS * (each - fewest) / fewest for number, each in seconds.items()}


def bars(by_experts: dict[int, float]) -> list[Bar]:
    """What is promised."""
    fewest = min(by_experts)
    name = f"fused-{SCHEME}: cost of a token beside {fewest} experts'"
    more = {number: times for number, times in by_experts.items() if number != fewest}
    return [Bar(f"{name}, {number} experts", times, MOST_BY_EXPERTS, at_least=False) for number, times in more.items()]


def print_report(middle: dict[str, dict[int, float]]) -> None:
    """Print milliseconds a token."""
    rows = [
        [f"{size} {grown}", f"{seconds * 1e3:.2f}", f"{seconds / by_size[min(by_size)]:.2f}x"]
        for grown, by_size in middle.items()
        for size, seconds in by_size.items()
    ]
    measurements.print_table(["", "ms/token", "beside the least"], rows)


def main() -> int:
    parsed = _parsed()
    started = measurements.begin()
    measured = run_rounds(points(parsed), parsed.rounds)
    middle = {grown: {size: median(each) for size, each in sizes.items()} for grown, sizes in measured.items()}
    by_experts = growth_by_experts(middle["experts"])
    print_report(middle)
    promised = [] if parsed.quick else bars(by_experts)
    body: dict[str, Any] = {
        "settings": {"threads": parsed.threads, "rounds": parsed.rounds, "variant": f"fused-{SCHEME}"},
        "seconds": middle,
        "raw_seconds": measured,
        "by_experts": by_experts,
        "bars": [bar.to_json() for bar in promised],
    }
    whole = not parsed.quick and set(parsed.experts) == set(EXPERTS)
    name = f"growth-{machine.file_name(started['machine'])}.json"
    measurements.write(parsed.output or (RESULTS if whole else BUILD / "quick") / name, started, body)
    return 0 if measurements.print_bars(promised) else 1


def _parsed() -> argparse.Namespace:
    parser = measurements.parser("Measure what a token costs as experts, rows, sources and outputs grow.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--experts", type=int, nargs="+", choices=EXPERTS, default=list(EXPERTS), help="128 take 9 GB of disk a while"
    )
    parser.add_argument("--keep", type=Path, default=BUILD, metavar="FOLDER", help="where models are kept")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

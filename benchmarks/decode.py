"""Decode speed at switch-base-8's real size, random weights: Pointsman beside transformers and CTranslate2.

Every contestant runs in a process of its own, one after the other within a round; rounds are interleaved and their
order alternates, so that a machine that slows down or warms up slows everyone. Figures are medians over rounds.
CTranslate2 has no Mixture of Experts: its model is a dense T5 of the same width and depth, which reads and multiplies
for one token what ours does. The dense floor is that same model in our form, from our exporter. The roofline is the
least time that a request takes at the speeds at which this machine reads memory and multiplies matrices, measured in
every round. Exit code 1 says that a promise is not kept.

`--rounds 1 --seconds 0 --cases greedy "first token" --contestants "ctranslate2 int8" fused-int8` is a short run.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import contest
import machine
import measurements
import promises
import roofline
from cases import CASES, QUICK_CASES, Case
from contest import FLOOR, REFERENCE, STEPS, Measured
from contestants.job import Job
from measurements import BUILD, RESULTS
from pointsman.bundle import read_manifest
from prepared import prepared_bundle, prepared_checkpoint, prepared_peer, prepared_variant
from roofline import Demand
from shapes import SHAPES
from speeds import Arithmetic, Speeds

BFLOAT16 = "transformers bfloat16"
PEERS: dict[str, str | None] = {promises.PEER_FLOAT32: None, promises.PEER_INT8: "int8"}
"""Quantization of the weights, as CTranslate2's converter calls it."""
SCHEMES = {promises.INT8: "int8", promises.INT4: "int4"}
VARIANTS = (promises.FLOAT32, "portable-float32", *SCHEMES)
CONTESTANTS = (REFERENCE, BFLOAT16, *PEERS, *VARIANTS, FLOOR)
_BYTES: dict[Arithmetic, int] = {"float32": 4, "bfloat16": 2, "int8": 1}


def jobs(parsed: argparse.Namespace, cases: tuple[Case, ...]) -> dict[str, Job]:
    """The contestants, by name; what they load is made first where it is not there."""
    shape, dense = _shapes(parsed)
    common: dict[str, Any] = {"threads": parsed.threads, "seconds": parsed.seconds, "cases": cases}
    found = {}
    for name in parsed.contestants:
        if name in (REFERENCE, BFLOAT16):
            path = prepared_checkpoint(parsed.keep, shape)
            found[name] = Job(engine="transformers", path=str(path), precision=_precision(name), **common)
        elif name in PEERS:
            path = prepared_peer(parsed.keep, prepared_checkpoint(parsed.keep, dense), PEERS[name])
            found[name] = Job(engine="ctranslate2", path=str(path), **common)
        elif name == FLOOR:
            path = prepared_bundle(parsed.keep, prepared_checkpoint(parsed.keep, dense), forms="fused")
            found[name] = Job(engine="onnxruntime", path=str(path), variant=promises.FLOAT32, **common)
        else:
            path = prepared_bundle(parsed.keep, prepared_checkpoint(parsed.keep, shape), forms="both")
            if name in SCHEMES:
                prepared_variant(path, SCHEMES[name])
            if name not in read_manifest(path).variants:
                raise SystemExit(f"{name} is neither a contestant nor a variant of {path}")
            found[name] = Job(engine="onnxruntime", path=str(path), variant=name, **common)
    return found


def _shapes(parsed: argparse.Namespace) -> tuple[str, str]:
    """With experts, and without."""
    return ("tiny", "tiny-dense") if parsed.quick else ("switch-base-8", "dense-base")


def _precision(name: str) -> Any:  # noqa: ANN401 - one of two literals
    return name.rpartition(" ")[2]


def run_rounds(contestants: Mapping[str, Job], rounds: int, threads: int) -> tuple[dict[str, Measured], list[Speeds]]:
    """Run every contestant once a round; also measure how fast the machine was in each."""
    measured = {name: Measured(job, [], size_on_disk(job)) for name, job in contestants.items()}
    speeds = []
    for number in range(rounds):
        speeds.append(Speeds.from_json(json.loads(_printed("machine_speeds.py", "--threads", str(threads)))))
        names = list(contestants) if number % 2 == 0 else list(reversed(list(contestants)))
        for name in names:
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            measured[name].rounds.append(json.loads(_printed("contestant.py", given=contestants[name].to_json())))
    return measured, speeds


def size_on_disk(job: Job) -> int:
    """Bytes of a checkpoint's or a peer's weights, or of a variant's files."""
    if job.engine == "onnxruntime":
        return sum(file.bytes for file in read_manifest(Path(job.path)).variants[job.variant].files)
    pattern = "*.safetensors" if job.engine == "transformers" else "model.bin"
    return sum(file.stat().st_size for file in Path(job.path).glob(pattern))


def _printed(script: str, *arguments: str, given: str = "") -> str:
    """What a script beside this one prints, run in a process of its own and given something on stdin."""
    command = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
    return subprocess.run(command, input=given, stdout=subprocess.PIPE, text=True, check=True).stdout


def demand(job: Job, name: str, shape: str, case: Case, routing: Mapping[str, float]) -> Demand:
    """What a contestant needs for a case, with the experts that its tokens chose."""
    if job.engine == "onnxruntime":
        manifest = read_manifest(Path(job.path))
        if manifest.variants[job.variant].precision != "float32":
            return roofline.quantized_demand(Path(job.path), job.variant, manifest.architecture, routing)
    arithmetic: Arithmetic = "float32" if job.engine == "onnxruntime" else _precision(name)
    # transformers makes the keys and values of cross-attention in its first step.
    cross = job.engine != "transformers" or case.new_tokens > 0
    return roofline.float_demand(SHAPES[shape], routing, arithmetic, _BYTES[arithmetic], cross=cross)


def demands(measured: Mapping[str, Measured], shapes: tuple[str, str]) -> dict[str, dict[str, Demand]]:
    """By contestant and case, where the reference has told how tokens spread over experts."""
    found = {}
    for name, contestant in measured.items():
        is_dense = name in PEERS or name == FLOOR
        if not is_dense and REFERENCE not in measured:
            continue
        found[name] = {
            case.name: demand(
                contestant.job, name, shapes[is_dense], case, {} if is_dense else measured[REFERENCE].routing(case.name)
            )
            for case in contestant.job.cases
        }
    return found


def agreement(measured: Mapping[str, Measured]) -> dict[str, dict[str, list[int]]]:
    """Tokens of float32 that are the same: ours and transformers', the peer's and the dense floor's."""
    pairs = [(name, REFERENCE) for name in VARIANTS if name not in SCHEMES] + [(promises.PEER_FLOAT32, FLOOR)]
    return {one: contest.equal_tokens(measured, one, other) for one, other in pairs if measured.keys() >= {one, other}}


def main() -> int:
    parsed = _parsed()
    cases = tuple(case for case in (QUICK_CASES if parsed.quick else CASES) if case.name in parsed.cases)
    contestants = jobs(parsed, cases)
    started = measurements.begin()
    measured, speeds = run_rounds(contestants, parsed.rounds, parsed.threads)
    best = Speeds.best(speeds)
    needed = demands(measured, _shapes(parsed))
    least = {
        name: {case.name: of_cases[case.name].least_seconds(case, best) for case in cases}
        for name, of_cases in needed.items()
    }
    step_bytes = {name: of[STEPS[0]].step_bytes for name, of in needed.items() if STEPS[0] in of}
    contest.print_report(measured, cases, least)
    _print_steps(measured, step_bytes, best)
    equal = agreement(measured)
    for name, counts in equal.items():
        counted = ", ".join(f"{case} {same} of {total}" for case, (same, total) in counts.items())
        print(f"tokens of {name} that are the same: {counted}")
    in_memory = {name: size / best.memory for name, size in step_bytes.items()}
    promised = [] if parsed.quick else promises.bars(measured, in_memory)
    body = {
        "settings": {"threads": parsed.threads, "rounds": parsed.rounds, "seconds": parsed.seconds},
        "cases": {case.name: case.to_json() for case in cases},
        "contestants": {name: each.to_json() for name, each in measured.items()},
        "roofline": {
            **best.to_json(),
            "raw_speeds_by_round": [each.to_json() for each in speeds],
            "step_bytes": step_bytes,
            "least_seconds": least,
        },
        "equal_tokens": equal,
        "routing": {case.name: measured[REFERENCE].routing(case.name) for case in cases if REFERENCE in measured},
        "bars": [bar.to_json() for bar in promised],
    }
    measurements.write(parsed.output or _output(parsed, started["machine"]), started, body)
    return 0 if measurements.print_bars(promised) else 1


def _print_steps(measured: Mapping[str, Measured], step_bytes: Mapping[str, float], best: Speeds) -> None:
    """Print what a step of one row takes beside reading its weights: from memory, and with what a cache may hold."""
    rows = []
    for name, each in measured.items():
        step = each.step_seconds()
        if step is not None and name in step_bytes:
            size = step_bytes[name]
            parts = (f"{size / speed / step:.0%}" for speed in (best.memory, best.reading(size)))
            rows.append([name, f"{step * 1e3:.2f}", f"{size / 1e6:.0f}", *parts])
    if rows:
        print()
        measurements.print_table(
            ["a step of one row", "ms", "MB read", "of memory's speed", "of any at that size"], rows
        )
        kinds = ", ".join(f"{kind} {speed / 1e9:.0f}" for kind, speed in best.operations_a_second.items())
        print(f"\nmemory gives {best.memory / 1e9:.1f} GB/s; billion operations a second: {kinds}\n")


def _output(parsed: argparse.Namespace, described: Mapping[str, Any]) -> Path:
    """Where results lie side by side; a run of a part is no result to keep."""
    whole = not parsed.quick and set(parsed.cases) >= {case.name for case in CASES}
    folder = RESULTS if whole and set(parsed.contestants) >= set(CONTESTANTS) else BUILD / "quick"
    return folder / f"decode-{machine.file_name(described)}.json"


def _parsed(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = measurements.parser("Measure decode speed beside transformers and CTranslate2.")
    names = [case.name for case in CASES]
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="that each case is timed in a round, at least")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cases", nargs="+", choices=names, default=names, metavar="CASE", help="; ".join(names))
    parser.add_argument(
        "--contestants", nargs="+", default=CONTESTANTS, metavar="NAME",
        help=f"{'; '.join(CONTESTANTS)}; or any other variant of the bundle",
    )  # fmt: skip
    parser.add_argument("--keep", type=Path, default=BUILD, metavar="FOLDER", help="where models are kept")
    return parser.parse_args(given)


if __name__ == "__main__":
    sys.exit(main())

"""Where a decoder step's time goes, by kind of operator and by place: ONNX Runtime's own profile, added up.

`python benchmarks/operators.py --case "batch 8" --places` shows the fused decoder of switch-base-8's shape.
"""

import argparse
import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, cast

import onnxruntime

import measurements
from cases import CASES, Case
from pointsman import DecodingOptions, SwitchModel
from pointsman.backends.onnxruntime import OnnxRuntimeBackend
from pointsman.backends.onnxruntime.models.source_blocks import with_source_in_blocks
from prepared import prepared_bundle, prepared_checkpoint


@dataclass(frozen=True, slots=True)
class Event:
    """One run of one node, or of the whole graph.

    Attributes:
        name: of the node, without the profiler's suffix; `model_run` for the graph.
        operator: its type; empty for the graph.
        start: microseconds.
        duration: microseconds, what runs inside of it included.
    """

    name: str
    operator: str
    start: int
    duration: int


def profile(bundle: Path, variant: str, case: Case, threads: int) -> list[Event]:
    """Generate twice, and return what the profiler saw of the second time's decoder steps, outer events first."""
    model = SwitchModel.load(bundle, device="cpu", variant=variant, threads=threads)
    options = DecodingOptions(num_beams=case.beams, min_new_tokens=case.new_tokens, max_new_tokens=case.new_tokens)
    with tempfile.TemporaryDirectory() as folder:
        session = _profiling_session(bundle / model.manifest.variants[variant].decoder.file, Path(folder), threads)
        cast("OnnxRuntimeBackend", model.backend).decoder = session
        for _ in range(2):
            model.generate(case.input_ids(model.manifest.architecture.vocab_size), options)
        events = _events(Path(session.end_profiling()))
    steps = [event for event in events if event.name == "model_run"]
    return [event for event in events if event.start >= steps[-case.new_tokens].start]


def _profiling_session(decoder: Path, folder: Path, threads: int) -> Any:  # noqa: ANN401 - untyped engine
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "decoder")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(decoder.parent))
    model = with_source_in_blocks(decoder.read_bytes())
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _events(path: Path) -> list[Event]:
    """Nodes and graph runs of a profile, by start; of those that start together, the outer ones first."""
    found = []
    for record in json.loads(path.read_text()):
        name, suffix = record["name"], "_kernel_time"
        if name == "model_run" or name.endswith(suffix):
            operator = record["args"].get("op_name", "")
            found.append(Event(name.removesuffix(suffix), operator, record["ts"], record["dur"]))
    return sorted(found, key=lambda event: (event.start, -event.duration))


def own_times(events: list[Event]) -> Iterator[tuple[Event, int]]:
    """Each event with its duration less that of the events directly inside of it, as of the nodes in a branch."""
    inside = [0] * len(events)
    open_events: list[int] = []
    for index, event in enumerate(events):
        while open_events and _end(events[open_events[-1]]) <= event.start:
            open_events.pop()
        if open_events:
            inside[open_events[-1]] += event.duration
        open_events.append(index)
    return ((event, event.duration - nested) for event, nested in zip(events, inside, strict=True))


def _end(event: Event) -> int:
    return event.start + event.duration


def print_totals(events: list[Event], steps: int, key: Callable[[Event], str], most: int) -> None:
    """Print runs and own time per step, added up by `key`; a node's time is the median of its runs."""
    runs: dict[tuple[str, str], list[int]] = defaultdict(list)
    for event, own in own_times(events):
        runs[key(event), event.name].append(own)
    counts: dict[str, float] = defaultdict(float)
    times: dict[str, float] = defaultdict(float)
    for (kind, _), owns in runs.items():
        counts[kind] += len(owns) / steps
        times[kind] += median(owns) * len(owns) / steps
    total = sum(times.values())
    rows = [
        [kind, f"{counts[kind]:.1f}", f"{times[kind]:.0f}", f"{times[kind] / total:.1%}"]
        for kind in sorted(times, key=lambda kind: -times[kind])[:most]
    ]
    rows.append(["all", f"{len(events) / steps:.1f}", f"{total:.0f}", "100 %"])
    measurements.print_table(["", "runs/step", "us/step", "share"], rows)


def by_operator(event: Event) -> str:
    """The operator's type; what a run of the graph spends outside its nodes."""
    return event.operator or "(between nodes)"


def by_place(event: Event) -> str:
    """The node's name without the numbers of blocks, experts and repetitions."""
    return re.sub(r"\.\d+|_\d+", "", event.name)


def _prepared() -> Path:
    checkpoint = prepared_checkpoint(measurements.BUILD, "switch-base-8")
    return prepared_bundle(measurements.BUILD, checkpoint, forms="both")


def main() -> None:
    parser = argparse.ArgumentParser(description="Show where a decoder step's time goes.")
    parser.add_argument("--bundle", type=Path, help="switch-base-8's synthetic bundle by default")
    parser.add_argument("--variant", default="fused-float32")
    parser.add_argument("--case", choices=[case.name for case in CASES if case.new_tokens], default="greedy")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--places", action="store_true", help="add up by place in the network too")
    parsed = parser.parse_args()
    bundle = parsed.bundle or _prepared()
    case = next(case for case in CASES if case.name == parsed.case)
    events = profile(bundle, parsed.variant, case, parsed.threads)
    print_totals(events, case.new_tokens, by_operator, most=40)
    if parsed.places:
        print()
        print_totals(events, case.new_tokens, by_place, most=60)


if __name__ == "__main__":
    main()

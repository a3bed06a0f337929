"""A contestant's run: load, do what the job asks, and say what was measured as one JSON document."""

import dataclasses
import json
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cases import Case
from contestants.doubting import doubts
from contestants.forcing import ForcedTarget
from contestants.job import Ids, Job
from contestants.mixing import mixture
from contestants.ours import Pointsman
from contestants.protocol import Contestant, run
from contestants.reference import CompiledTransformers, Transformers
from contestants.searches import SEARCHED_LENGTHS, SEARCHED_TOKENS, SEARCHES
from pointsman.errors import PointsmanError

REFUSED = 3
_BEHIND_LOADS = "huge pages"  # the runtime's `huge_pages.THREAD`; its engine is not imported where others are measured


def load(job: Job) -> Contestant:
    """The contestant."""
    from contestants.dense import CTranslate2

    kinds: dict[str, Callable[[Job], Contestant]] = {
        "transformers": Transformers,
        "compiled": CompiledTransformers,
        "ctranslate2": CTranslate2,
    }
    return kinds.get(job.engine, Pointsman)(job)


def measure(job: Job) -> dict[str, Any]:
    """Load and run a contestant.

    Returns:
        `load_seconds`; `cases`, of each the `tokens`, the `seconds` of every timed run, the `peak_bytes` of the process
        up to then, and what the contestant adds; where the job asks for them, `searched`, the tokens of each of
        `SEARCHES`, `bytes_a_second`, at which the device copies, and `forced`, the losses and the likeliest tokens of
        each document, `doubts`, the nearest choice of each doubted one, and `mixed`, what was found of requests in
        shared steps; and `peak_bytes`, the largest resident memory.
    """
    began = time.perf_counter()
    contestant = load(job)
    measured: dict[str, Any] = {"load_seconds": time.perf_counter() - began}
    for thread in threading.enumerate():  # what goes on behind a load is neither loading nor decoding
        if thread.name == _BEHIND_LOADS:
            thread.join()
    measured["cases"] = {case.name: _measured_case(contestant, case, job) for case in job.cases}
    if job.search:
        measured["searched"] = list(_searched(contestant))
    if job.documents:
        measured["forced"] = list(_forced(contestant, job))
    if job.doubted:
        measured["doubts"] = [dataclasses.asdict(doubt) for doubt in doubts(job)]
    if job.mixed:
        assert isinstance(contestant, Pointsman)
        measured["mixed"] = mixture(contestant.model, job.mixed)
    if job.bandwidth:
        measured["bytes_a_second"] = _bandwidth(job)
    measured["peak_bytes"] = _peak_bytes()
    return measured


def _measured_case(contestant: Contestant, case: Case, job: Job) -> dict[str, Any]:
    tokens = run(contestant, case)
    for _ in range(job.warm_ups):
        run(contestant, case)
    seconds: list[float] = []
    while len(seconds) < job.repeats or sum(seconds) < job.seconds:
        seconds.append(_timed(lambda: run(contestant, case)))
    return {"tokens": tokens, "seconds": seconds, "peak_bytes": _peak_bytes(), **contestant.observed(case)}


def _peak_bytes() -> int:
    """The largest resident memory so far; what the kernel counts for a parent would hold the one that forked it too."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _searched(contestant: Contestant) -> Iterator[Ids]:
    input_ids = [Case("", source=length).input_ids(contestant.vocab_size)[0] for length in SEARCHED_LENGTHS]
    for options in SEARCHES:
        yield contestant.generate(input_ids, {"max_new_tokens": SEARCHED_TOKENS, **options})


def _forced(contestant: Contestant, job: Job) -> Iterator[dict[str, Any]]:
    for document in job.documents:
        target = ForcedTarget(document.target, contestant.vocab_size)
        contestant.force(list(document.inputs), target)
        yield target.to_json()


def _timed(what: Callable[[], object]) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def _bandwidth(job: Job, size: int = 1 << 28, tries: int = 10) -> float:
    """Bytes a second that the device reads and writes when it copies; the best of a few tries."""
    import torch

    source = torch.zeros(size // 4 if job.device == "cpu" else size, device=job.device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        if job.device == "cuda":
            torch.cuda.synchronize()

    return 2 * source.nbytes / min(_timed(copy) for _ in range(tries))


def main() -> int:
    """Read a job from stdin, and print what was measured, or `{"refusal": sentence}` where the contestant cannot run.

    Returns:
        the exit code.
    """
    job = Job.from_json(sys.stdin.read())
    try:
        print(json.dumps(measure(job)))
    except Exception as error:  # noqa: BLE001 - whatever keeps another's model from running is what is to be reported
        traceback.print_exc()
        print(json.dumps({"refusal": _reason(error)}))
        return REFUSED
    return 0


def _reason(error: Exception) -> str:
    """In one line; other libraries' errors with their type."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return first if isinstance(error, PointsmanError) else f"{type(error).__name__}: {first}"

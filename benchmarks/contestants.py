"""One contestant in a process of its own: load, run every case, print the measurements as one JSON document.

`decode.py` starts it with a `Job` on the command line.
"""

import dataclasses
import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from cases import Case
from routing import RoutingObserver

Ids = list[list[int]]


@dataclass(frozen=True, slots=True)
class Job:
    """What a contestant's process is told.

    Attributes:
        engine: who runs.
        path: the checkpoint, or the bundle.
        variant: of the bundle; empty for transformers.
        threads: of matrix products.
        repeats: timed runs of each case, after one that is not.
        observe_routing: whether to count, in a run that is not timed, which experts tokens go to.
        cases: what to run.
    """

    engine: Literal["transformers", "pointsman"]
    path: str
    variant: str
    threads: int
    repeats: int
    observe_routing: bool
    cases: tuple[Case, ...]

    def to_json(self) -> str:
        """For the command line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """From the command line."""
        fields: dict[str, Any] = json.loads(text)
        return cls(**{**fields, "cases": tuple(Case(**case) for case in fields["cases"])})


class Contestant(Protocol):
    """A loaded model."""

    vocab_size: int

    def run(self, case: Case, input_ids: Ids) -> Ids:
        """Do what the case asks; return the generated tokens of the best sequence of every input."""
        ...


class Transformers:
    """The reference, in float32."""

    def __init__(self, job: Job) -> None:
        import torch
        from transformers import SwitchTransformersForConditionalGeneration, logging

        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        torch.set_num_threads(job.threads)
        self.torch = torch
        model: Any = SwitchTransformersForConditionalGeneration.from_pretrained(job.path, dtype=torch.float32)
        self.model = model.eval()
        self.vocab_size: int = model.config.vocab_size

    def run(self, case: Case, input_ids: Ids) -> Ids:
        """See `Contestant.run`."""
        ids = self.torch.tensor(input_ids)
        mask = self.torch.ones_like(ids)
        with self.torch.inference_mode():
            if not case.new_tokens:
                self.model.get_encoder()(input_ids=ids, attention_mask=mask)
                return []
            output = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                num_beams=case.beams,
                do_sample=False,
                min_new_tokens=case.new_tokens,
                max_new_tokens=case.new_tokens,
            )
        tokens: Ids = output[:, 1:].tolist()
        return tokens


class Pointsman:
    """A variant of a bundle."""

    def __init__(self, job: Job) -> None:
        from pointsman import SwitchModel

        self.model = SwitchModel.load(job.path, device="cpu", variant=job.variant, threads=job.threads)
        self.vocab_size = self.model.manifest.architecture.vocab_size

    def run(self, case: Case, input_ids: Ids) -> Ids:
        """See `Contestant.run`."""
        from pointsman import DecodingOptions

        if not case.new_tokens:
            self.model.encode(input_ids, rows=len(input_ids))
            return []
        options = DecodingOptions(num_beams=case.beams, min_new_tokens=case.new_tokens, max_new_tokens=case.new_tokens)
        return [list(best.token_ids) for best, *_ in self.model.generate(input_ids, options)]


def measure(job: Job) -> dict[str, Any]:
    """Load and run a contestant.

    Returns:
        `load_seconds`; `peak_bytes`, the largest resident memory; and for each case `seconds` of every timed run,
        the generated `tokens`, and `routing` where it was asked for.
    """
    began = time.perf_counter()
    contestant: Contestant = Transformers(job) if job.engine == "transformers" else Pointsman(job)
    load_seconds = time.perf_counter() - began
    cases = {case.name: _measure_case(contestant, case, job) for case in job.cases}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"load_seconds": load_seconds, "peak_bytes": peak, "cases": cases}


def _measure_case(contestant: Contestant, case: Case, job: Job) -> dict[str, Any]:
    input_ids = case.input_ids(contestant.vocab_size)
    measured: dict[str, Any] = {"tokens": contestant.run(case, input_ids)}
    measured["seconds"] = [_timed(lambda: contestant.run(case, input_ids)) for _ in range(job.repeats)]
    if job.observe_routing and isinstance(contestant, Transformers):
        with RoutingObserver(contestant.model) as observer:
            contestant.run(case, input_ids)
        measured["routing"] = observer.summary()
    return measured


def _timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> None:
    job = Job.from_json(sys.argv[1])
    if not Path(job.path).exists():
        raise SystemExit(f"{job.path} does not exist; decode.py makes it")
    print(json.dumps(measure(job)))


if __name__ == "__main__":
    main()

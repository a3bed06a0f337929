"""One contestant on the GPU in a process of its own: load, run every case, print the measurements as one JSON document.

`gpu.py` starts it with a `Job` on the command line. What cannot run prints why, as `{"refusal": sentence}`.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from cases import Case
from pointsman.errors import PointsmanError
from routing import RoutingObserver

Ids = list[list[int]]
Options = dict[str, Any]
Precision = Literal["float32", "bfloat16"]
Engine = Literal["transformers", "compiled", "onnxruntime", "tensorrt", "tensorrt-rtx"]

WARM_UPS = 2  # beside the first run: a step is recorded when it comes the second time, and replayed the third
# What tokens are compared on in float32, beside the timed cases: every part of the search, with a few tokens.
PARITY: tuple[Options, ...] = (
    {},
    {"min_new_tokens": 10, "repetition_penalty": 1.3},
    {"no_repeat_ngram_size": 2},
    {"num_beams": 2, "length_penalty": 0.6},
    {"num_beams": 4, "early_stopping": True},
    {"num_beams": 4, "early_stopping": "never", "length_penalty": 2.0},
    {"num_beams": 4, "length_penalty": 0.0, "repetition_penalty": 0.8},
    {"num_beams": 4, "no_repeat_ngram_size": 2, "min_new_tokens": 6},
)
PARITY_TOKENS, PARITY_LENGTHS = 14, (5, 17)
_REFUSED = 3


@dataclass(frozen=True, slots=True)
class Job:
    """What a contestant's process is told.

    Attributes:
        engine: who runs; `compiled` is transformers with a static cache and torch.compile.
        path: the checkpoint, or the bundle.
        variant: of the bundle; empty for transformers.
        precision: of weights and activations.
        repeats: timed runs of each case.
        cases: what to run.
        device: `cuda`, or `cpu` to try the script.
    """

    engine: Engine
    path: str
    variant: str
    precision: Precision
    repeats: int
    cases: tuple[Case, ...]
    device: Literal["cuda", "cpu"] = "cuda"

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

    def encode(self, input_ids: Ids) -> None:
        """Run the encoder alone, and wait for it."""
        ...

    def generate(self, input_ids: Ids, options: Options) -> Ids:
        """The generated tokens of the best sequence of every input."""
        ...

    def extras(self, case: Case, /) -> dict[str, Any]:
        """What else is to be noted."""
        ...


class Transformers:
    """The reference."""

    def __init__(self, job: Job) -> None:
        import torch
        from transformers import SwitchTransformersForConditionalGeneration, logging

        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        self.torch, self.device = torch, job.device
        dtype = getattr(torch, job.precision)
        model: Any = SwitchTransformersForConditionalGeneration.from_pretrained(job.path, dtype=dtype)
        self.model = model.eval().to(job.device)
        self.vocab_size: int = model.config.vocab_size
        self.options: Options = {}
        if job.engine == "compiled":
            self.options = {"cache_implementation": "static"}
            # Every block is compiled anew; past the default of 8 the others would run as they are.
            torch._dynamo.config.recompile_limit = 64
            self.model.forward = torch.compile(self.model.forward, mode="reduce-overhead")
            self.model.encoder.forward = torch.compile(self.model.encoder.forward, mode="reduce-overhead")

    def _tensors(self, input_ids: Ids) -> dict[str, Any]:
        longest = max(map(len, input_ids))
        ids = self.torch.tensor([row + [0] * (longest - len(row)) for row in input_ids], device=self.device)
        return {"input_ids": ids, "attention_mask": (ids != 0).long()}

    def encode(self, input_ids: Ids) -> None:
        """See `Contestant.encode`."""
        with self.torch.inference_mode():
            self.model.get_encoder()(**self._tensors(input_ids))
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def generate(self, input_ids: Ids, options: Options) -> Ids:
        """See `Contestant.generate`."""
        with self.torch.inference_mode():
            output = self.model.generate(**self._tensors(input_ids), do_sample=False, **options, **self.options)
        return [_until_eos(row) for row in output[:, 1:].tolist()]

    def extras(self, case: Case) -> dict[str, Any]:
        """How the tokens of a case spread over the experts."""
        if self.options:
            return {}
        with RoutingObserver(self.model) as observer:
            _run(self, case)
        return {"routing": observer.summary()}


class Pointsman:
    """A variant of a bundle, on one of its engines."""

    def __init__(self, job: Job) -> None:
        from pointsman import SwitchModel

        self.model = SwitchModel.load(job.path, job.device, job.variant, engine=job.engine, verify=False)
        self.vocab_size = self.model.manifest.architecture.vocab_size

    def encode(self, input_ids: Ids) -> None:
        """See `Contestant.encode`."""
        self.model.encode(input_ids, rows=len(input_ids))

    def generate(self, input_ids: Ids, options: Options) -> Ids:
        """See `Contestant.generate`."""
        from pointsman import DecodingOptions

        return [list(best.token_ids) for best, *_ in self.model.generate(input_ids, DecodingOptions(**options))]

    def extras(self, _case: Case) -> dict[str, Any]:
        """Whether steps were replayed as CUDA graphs, where the engine is asked to."""
        plan = getattr(self.model.backend, "decoder", None)
        replays = getattr(plan, "replays", None)
        return {} if replays is None else {"recording_refused": replays.refusal}


def _until_eos(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(1) + 1] if 1 in tokens else tokens


def measure(job: Job) -> dict[str, Any]:
    """Load and run a contestant.

    Returns:
        `load_seconds`; for each case `tokens`, the `seconds` of every timed run, and what the contestant adds; in
        float32 also `parity`, the tokens of each of `PARITY`; and of transformers the device's `bytes_a_second`.
    """
    began = time.perf_counter()
    contestant: Contestant = Transformers(job) if job.engine in ("transformers", "compiled") else Pointsman(job)
    measured: dict[str, Any] = {"load_seconds": time.perf_counter() - began}
    measured["cases"] = {case.name: _measured_case(contestant, case, job.repeats) for case in job.cases}
    if job.precision == "float32" and job.engine != "compiled":
        measured["parity"] = list(_parity(contestant))
    if isinstance(contestant, Transformers):
        measured["bytes_a_second"] = _bandwidth(contestant)
    return measured


def _measured_case(contestant: Contestant, case: Case, repeats: int) -> dict[str, Any]:
    tokens = _run(contestant, case)
    for _ in range(WARM_UPS):
        _run(contestant, case)
    seconds = [_timed(lambda: _run(contestant, case)) for _ in range(repeats)]
    return {"tokens": tokens, "seconds": seconds, **contestant.extras(case)}


def _run(contestant: Contestant, case: Case) -> Ids:
    input_ids = case.input_ids(contestant.vocab_size)
    if not case.new_tokens:
        contestant.encode(input_ids)
        return []
    forced = {"min_new_tokens": case.new_tokens, "max_new_tokens": case.new_tokens}
    return contestant.generate(input_ids, {"num_beams": case.beams, **forced})


def _parity(contestant: Contestant) -> Iterator[Ids]:
    rows = (Case("", source=length).input_ids(contestant.vocab_size)[0] for length in PARITY_LENGTHS)
    input_ids = [*rows]
    for options in PARITY:
        yield contestant.generate(input_ids, {"max_new_tokens": PARITY_TOKENS, **options})


def _timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _bandwidth(contestant: Transformers, size: int = 1 << 28, tries: int = 10) -> float:
    """Bytes a second that the device reads and writes when it copies; the best of a few tries."""
    torch = contestant.torch
    source = torch.zeros(size // 4 if contestant.device == "cpu" else size, device=contestant.device)
    target = torch.empty_like(source)
    wait = torch.cuda.synchronize if contestant.device == "cuda" else lambda: None

    def copy() -> None:
        target.copy_(source)
        wait()

    moved: int = 2 * source.nbytes
    return moved / min(_timed(copy) for _ in range(tries))


def main() -> int:
    job = Job.from_json(sys.argv[1])
    try:
        print(json.dumps(measure(job)))
    except PointsmanError as error:
        print(json.dumps({"refusal": str(error)}))
        return _REFUSED
    except Exception as error:  # noqa: BLE001 - whatever keeps another's model from running is what is to be told
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(json.dumps({"refusal": f"{type(error).__name__}: {first}"}))
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())

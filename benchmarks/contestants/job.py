"""What a contestant's process is asked to do."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

from cases import Case
from contestants.forcing import Document

Ids = list[list[int]]
Options = dict[str, Any]
Precision = Literal["float32", "bfloat16"]
Engine = Literal["transformers", "compiled", "ctranslate2", "onnxruntime", "tensorrt", "tensorrt-rtx"]
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a contestant's process is asked to do.

    Attributes:
        engine: who runs; `compiled` is transformers with a static cache and torch.compile.
        path: the checkpoint, the bundle, or what CTranslate2's converter wrote.
        variant: of the bundle; empty for others.
        precision: of transformers' weights and activations.
        device: where.
        threads: of matrix products on the CPU; the engine's default where None.
        cases: what is timed.
        warm_ups: runs of each case beside the first that are not timed.
        repeats: timed runs of each case, at least.
        seconds: that the timed runs of each case take together, at least.
        search: whether to generate in each of the ways of `searches.SEARCHES` too, to compare tokens.
        bandwidth: whether to measure how fast the device copies.
        documents: token ids to force through the decoder, for losses and the likeliest tokens.
        doubted: of transformers, sequences whose choices may be too near for float32; see `doubting`.
        mixed: requests to decode together in shared steps, and each alone; 0 for none.
    """

    engine: Engine
    path: str
    variant: str = ""
    precision: Precision = "float32"
    device: Device = "cpu"
    threads: int | None = None
    cases: tuple[Case, ...] = ()
    warm_ups: int = 0
    repeats: int = 1
    seconds: float = 0.0
    search: bool = False
    bandwidth: bool = False
    documents: tuple[Document, ...] = ()
    doubted: tuple[Document, ...] = ()
    mixed: int = 0

    def to_json(self) -> str:
        """For the process's input."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """From the process's input."""
        fields: dict[str, Any] = json.loads(text)
        cases = tuple(Case(**case) for case in fields.pop("cases"))
        documents, doubted = (tuple(map(Document.from_json, fields.pop(name))) for name in ("documents", "doubted"))
        return cls(cases=cases, documents=documents, doubted=doubted, **fields)

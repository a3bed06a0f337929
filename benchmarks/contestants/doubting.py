"""Whether float32 can tell what comes next: how near transformers' closest choices are, beside its own error.

A random network's routers and tokens are at times decided by less than float32's rounding. Two correct programs then
say two things, and neither is wrong. What transformers computes in float64 says how near a choice is; how far its
float32 is from that, at the choices of the same router or of tokens, says how near is too near.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contestants.job import Job

_CLASSIFIER, _TOKENS = "router.classifier", "tokens"
Scores = dict[str, NDArray[np.float64]]
"""Of each router, probabilities [tokens, experts], and of tokens [positions, vocabulary], as logits."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """The choice in a sequence that float32 is least able to make.

    Attributes:
        where: the router, or `tokens`.
        margin: of the best over the second in float64.
        error: by how much float32's margins there are off, at most, in the same sequence.
    """

    where: str
    margin: float
    error: float


def doubts(job: Job) -> Iterator[Doubt]:
    """Of each of a job's doubted documents."""
    exact, rounded = (list(_scores(job, precision)) for precision in ("float64", "float32"))
    for one, other in zip(exact, rounded, strict=True):
        yield min((_doubt(where, one[where], other[where]) for where in one), key=lambda each: each.margin / each.error)


def _doubt(where: str, exact: NDArray[np.float64], rounded: NDArray[np.float64]) -> Doubt:
    best = np.argsort(-exact, axis=-1, kind="stable")[:, :2]
    margins, others = (_between(scores, best) for scores in (exact, rounded))
    return Doubt(where, float(margins.min()), float(np.abs(margins - others).max()))


def _between(scores: NDArray[np.float64], best: NDArray[np.int64]) -> NDArray[np.float64]:
    first, second = np.take_along_axis(scores, best, axis=-1).T
    return np.asarray(first - second)


def _scores(job: Job, precision: str) -> Iterator[Scores]:
    """What transformers computes where each document is forced upon it."""
    import torch
    from transformers import SwitchTransformersForConditionalGeneration

    model: Any = SwitchTransformersForConditionalGeneration.from_pretrained(job.path, dtype=getattr(torch, precision))
    model = model.eval().to(job.device)
    seen: Scores = {}

    def watch(name: str) -> None:
        def note(_module: Any, _inputs: Any, logits: Any) -> None:  # noqa: ANN401 - transformers has no types
            flat = logits.detach().double().flatten(0, -2).softmax(-1)
            seen[name] = flat.cpu().numpy()

        model.get_submodule(name).register_forward_hook(note)

    for name, _ in model.named_modules():
        if name.endswith(_CLASSIFIER):
            watch(name)
    start = model.config.decoder_start_token_id
    for document in job.doubted:
        seen.clear()
        with torch.inference_mode():
            fed = [torch.tensor([ids], device=job.device) for ids in (document.inputs, (start, *document.target[:-1]))]
            logits = model(input_ids=fed[0], decoder_input_ids=fed[1]).logits[0]
        seen[_TOKENS] = logits.double().cpu().numpy()
        yield dict(seen)

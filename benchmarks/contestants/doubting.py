"""Whether float32 can tell what comes next: how near transformers' closest choices are, beside its own error.

A random network's routers and tokens are at times decided by less than float32's rounding. Two correct programs then
say two things, and neither is wrong. What transformers computes in float64 says how near a choice is; how far its
float32 is from that, at choices of the same router before any that float32 makes otherwise, says how near is too near.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contestants.job import Job

TOKENS: Final = "tokens"
_CLASSIFIER, _ENCODER = "router.classifier", "encoder"
_LEAST_ERROR: Final = float(np.finfo(np.float64).tiny)
Scores = dict[str, NDArray[np.float64]]
"""In the order of the network: of routers probabilities [tokens, experts], and of tokens logits [positions, ids]."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """The choice in a sequence that float32 is least able to make.

    Attributes:
        where: the router, or `tokens`.
        position: of the token.
        margin: of the best over the second in float64.
        error: by how much float32's margins there are off, at most.
    """

    where: str
    position: int
    margin: float
    error: float


def doubts(job: Job) -> Iterator[Doubt]:
    """Of each of a job's doubted documents."""
    exact, rounded = (list(_scores(job, precision)) for precision in ("float64", "float32"))
    for one, other in zip(exact, rounded, strict=True):
        yield nearest(one, other)


def nearest(exact: Scores, rounded: Scores) -> Doubt:
    """The choice whose margin is the smallest part of its router's error.

    What comes behind a choice that float32 makes otherwise is left out, at its position and later ones: it is computed
    of something else. Of the document's tokens only the last counts, in which two sequences part.
    """
    found: list[Doubt] = []
    until = np.inf  # the first position that differs so far
    for where, scores in exact.items():
        if scores.shape[-1] < 2:
            continue
        best = np.argsort(-scores, axis=-1, kind="stable")[:, :2]
        margins, others = _between(scores, best), _between(rounded[where], best)
        is_clean = np.arange(len(margins)) < until
        if is_clean.any():
            error = max(float(np.abs(margins - others)[is_clean].max()), _LEAST_ERROR)
            places = np.flatnonzero(is_clean)
            if where == TOKENS:
                places = places[places == len(margins) - 1]
            found += [Doubt(where, place, float(margins[place]), error) for place in places.tolist()]
        otherwise = np.flatnonzero(others < 0)
        if len(otherwise):
            until = 0 if where.startswith(_ENCODER) else min(until, int(otherwise[0]))
    return min(found, key=lambda each: each.margin / each.error)


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
        seen[TOKENS] = logits.double().cpu().numpy()
        yield dict(seen)

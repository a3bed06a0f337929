"""Variants left to themselves: what they generate beside the baseline, and how fast they are."""

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from statistics import median
from typing import Final

from pointsman.decoding import DecodingOptions
from pointsman.model import SwitchModel
from pointsman_calib.comparison.records import GenerationAgreement, Search

Ids = Sequence[int]

BEAMS: Final[dict[Search, int]] = {"greedy": 1, "4 beams": 4}
ROUNDS: Final = 3
TIMED_TOKENS: Final = 16


def generate(model: SwitchModel, inputs: Sequence[Ids], *, max_new_tokens: int) -> dict[Search, list[Ids]]:
    """Each input's generation by each kind of search, one input at a time."""
    return {
        search: [_generation(model, ids, num_beams, max_new_tokens) for ids in inputs]
        for search, num_beams in BEAMS.items()
    }


def _generation(model: SwitchModel, ids: Ids, num_beams: int, max_new_tokens: int) -> Ids:
    ((best,),) = model.generate([ids], DecodingOptions(num_beams=num_beams, max_new_tokens=max_new_tokens))
    return best.token_ids


def agreement(
    baseline: Mapping[Search, Sequence[Ids]], candidate: Mapping[Search, Sequence[Ids]]
) -> tuple[GenerationAgreement, ...]:
    """What two variants generated from the same inputs."""
    return tuple(_agreement(search, baseline[search], candidate[search]) for search in BEAMS)


def _agreement(search: Search, baseline: Sequence[Ids], candidate: Sequence[Ids]) -> GenerationAgreement:
    pairs = list(zip(baseline, candidate, strict=True))
    common = sum(_common_prefix(one, other) for one, other in pairs)
    return GenerationAgreement(
        search=search,
        documents=len(pairs),
        identical=sum(one == other for one, other in pairs),
        prefix=common / sum(max(len(one), len(other)) for one, other in pairs),
    )


def _common_prefix(one: Ids, other: Ids) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def ms_per_token(models: Mapping[str, SwitchModel], inputs: Sequence[Ids]) -> dict[str, float]:
    """Median milliseconds of a greedy step at batch 1, by variant.

    Variants take turns on every input, so that whatever else the machine does slows all of them alike. The first
    token, which waits for the encoder, is not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(ROUNDS):
        for ids in inputs:
            for name, model in models.items():
                seconds[name] += _steps(model, ids)
    return {name: 1000 * median(steps) for name, steps in seconds.items()}


def _steps(model: SwitchModel, ids: Ids) -> Iterator[float]:
    """Seconds of each step after the first."""
    options = DecodingOptions(max_new_tokens=TIMED_TOKENS + 1, min_new_tokens=TIMED_TOKENS + 1)
    events = model.stream([ids], options)
    next(events)
    began = time.perf_counter()
    for _ in events:
        ended = time.perf_counter()
        yield ended - began
        began = ended

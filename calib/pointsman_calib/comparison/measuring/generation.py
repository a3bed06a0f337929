"""Variants left to themselves: what they generate beside the baseline, and how fast they are."""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from statistics import median
from typing import Final

from pointsman.backends.onnxruntime.session import Device
from pointsman.decoding import DecodingOptions
from pointsman.model import SwitchModel
from pointsman_calib.comparison.records import GenerationAgreement, Search
from pointsman_calib.progress import Progress

Ids = Sequence[int]
Generations = Mapping[Search, Sequence[Ids]]

BEAMS: Final[dict[Search, int]] = {"greedy": 1, "4 beams": 4}
MAX_NEW_TOKENS: Final = 32
ROUNDS: Final = 3
TIMED_TOKENS: Final = 16


@dataclass(frozen=True, slots=True)
class Generated:
    """What was measured while a variant generated.

    Attributes:
        ms_per_token: median milliseconds of its greedy steps at batch 1; the first token, which waits for the encoder,
            is not counted.
        agreement: of its generations with the baseline's.
    """

    ms_per_token: float | None
    agreement: tuple[GenerationAgreement, ...]


NOTHING_GENERATED: Final = Generated(None, ())


def measure_generation(
    bundle: Path, variants: Sequence[str], inputs: Sequence[Ids], device: Device = "cpu"
) -> dict[str, Generated]:
    """Generate with each variant, and time it.

    One model is loaded at a time, and freed before the next. Variants take turns, `ROUNDS` times, so that whatever else
    the machine does slows all of them alike.

    Args:
        bundle: its folder; its files are not checked again.
        variants: names, the baseline first.
        inputs: token ids of documents; nothing is measured where there are none.
        device: where they generate.
    """
    if not inputs:
        return dict.fromkeys(variants, NOTHING_GENERATED)
    texts: dict[str, Generations] = {}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    with Progress("generating", ROUNDS * len(variants)) as shown:
        for turn, name in itertools.product(range(ROUNDS), variants):
            model = SwitchModel.load(bundle, device, name, verify=False)
            seconds[name] += step_seconds(model, inputs)
            if turn == 0:
                texts[name] = generate(model, inputs)
            del model  # before the next is loaded
            shown.update()
    reference = texts[variants[0]]
    return {name: Generated(1000 * median(seconds[name]), agreement(reference, texts[name])) for name in variants}


def generate(model: SwitchModel, inputs: Sequence[Ids]) -> Generations:
    """Each input's generation by each kind of search, one input at a time."""
    return {search: [_generation(model, ids, num_beams) for ids in inputs] for search, num_beams in BEAMS.items()}


def _generation(model: SwitchModel, ids: Ids, num_beams: int) -> Ids:
    ((best,),) = model.generate([ids], DecodingOptions(num_beams=num_beams, max_new_tokens=MAX_NEW_TOKENS))
    return best.token_ids


def agreement(baseline: Generations, candidate: Generations) -> tuple[GenerationAgreement, ...]:
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


def step_seconds(model: SwitchModel, inputs: Sequence[Ids]) -> list[float]:
    """Seconds of each greedy step after the first, one input at a time."""
    return [seconds for ids in inputs for seconds in _steps(model, ids)]


def _steps(model: SwitchModel, ids: Ids) -> Iterator[float]:
    options = DecodingOptions(max_new_tokens=TIMED_TOKENS + 1, min_new_tokens=TIMED_TOKENS + 1)
    events = model.stream([ids], options)
    next(events)
    began = time.perf_counter()
    for _ in events:
        ended = time.perf_counter()
        yield ended - began
        began = ended

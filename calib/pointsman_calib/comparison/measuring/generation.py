"""Variants left to themselves: what they generate beside the baseline, how fast they are, and what they take."""

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path
from statistics import median
from typing import Final

from pointsman.backends.onnxruntime.session import Device
from pointsman.bundle import Manifest, read_manifest
from pointsman.decoding import DecodingOptions
from pointsman.model import SwitchModel
from pointsman_calib.comparison.measuring.footprint import footprint
from pointsman_calib.comparison.records import Footprint, GenerationAgreement, Search, Speed
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
        speed: of its greedy search, one input at a time.
        footprint: of a process that does the same.
        agreement: of its generations with the baseline's.
        outputs: each input's, by each kind of search.
    """

    speed: Speed | None
    footprint: Footprint | None
    agreement: tuple[GenerationAgreement, ...]
    outputs: Generations


NOTHING_GENERATED: Final = Generated(None, None, (), {})


@dataclass(frozen=True, slots=True)
class Turn:
    """Seconds of one turn: to each input's first token, and of each further token of all inputs."""

    first: Sequence[float]
    further: Sequence[float]


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
    most = _most(MAX_NEW_TOKENS, read_manifest(bundle))
    outputs: dict[str, Generations] = {}
    turns: dict[str, list[Turn]] = {name: [] for name in variants}
    with Progress("generating", ROUNDS * len(variants)) as shown:
        for turn, name in itertools.product(range(ROUNDS), variants):
            # Variants of integers run on the CPU even where others run on a GPU.
            model = SwitchModel.load(bundle, "cpu" if device == "cpu" else "auto", name, verify=False)
            if turn == 0:
                outputs[name] = generate(model, inputs)
            turns[name].append(timed(model, inputs))
            del model  # before the next is loaded
            shown.update()
    reference = outputs[variants[0]]
    return {
        name: Generated(
            speed(turns[name]),
            footprint(bundle, name, inputs, max_new_tokens=most) if device == "cpu" else None,
            agreement(reference, outputs[name]),
            outputs[name],
        )
        for name in variants
    }


def _most(tokens: int, manifest: Manifest) -> int:
    """So many, or as many as the bundle allows."""
    return min(tokens, manifest.limits.tokens)


def generate(model: SwitchModel, inputs: Sequence[Ids]) -> Generations:
    """Each input's generation by each kind of search, one input at a time."""
    return {search: [_generation(model, ids, num_beams) for ids in inputs] for search, num_beams in BEAMS.items()}


def _generation(model: SwitchModel, ids: Ids, num_beams: int) -> Ids:
    most = _most(MAX_NEW_TOKENS, model.manifest)
    ((best,),) = model.generate([ids], DecodingOptions(num_beams=num_beams, max_new_tokens=most))
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


def timed(model: SwitchModel, inputs: Sequence[Ids]) -> Turn:
    """Greedy search, one input at a time; once more before, untimed, since what runs first finds nothing prepared."""
    _moments(model, inputs[0])
    moments = [_moments(model, ids) for ids in inputs]
    return Turn(
        first=[of_input[1] - of_input[0] for of_input in moments],
        further=[after - before for of_input in moments for before, after in pairwise(of_input[1:])],
    )


def _moments(model: SwitchModel, ids: Ids) -> list[float]:
    """When a request began, and when each of its tokens came."""
    tokens = _most(TIMED_TOKENS + 1, model.manifest)
    options = DecodingOptions(max_new_tokens=tokens, min_new_tokens=tokens)
    began = time.perf_counter()
    return [began, *(time.perf_counter() for _ in model.stream([ids], options))]


def speed(turns: Sequence[Turn]) -> Speed:
    """What several turns come to."""
    further = [seconds for turn in turns for seconds in turn.further]
    return Speed(
        ms_to_first_token=1000 * median(seconds for turn in turns for seconds in turn.first),
        ms_per_token=1000 * median(further),
        ms_per_token_of_rounds=tuple(1000 * median(turn.further) for turn in turns),
        tokens=len(further),
    )

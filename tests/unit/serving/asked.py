"""Requests as tests put them to a scheduler."""

from typing import Any

import numpy as np

from pointsman import Infiller
from pointsman.serving.jobs import DecodingJob

TEXT = "The <extra_id_0> waits by <extra_id_1> box."
TEXTS = [
    TEXT,
    "A <extra_id_0> day.",
    "Nobody <extra_id_0> under the bridge, and at noon the <extra_id_1> leaves on track <extra_id_2>.",
    "My sister quickly walks in Xanten, and later the goods wagon <extra_id_5> at every vivid signal, or <extra_id_1>.",
    "The trains that come from the north " * 12 + "stop at the <extra_id_0>.",  # encoded by itself
]


def job(infiller: Infiller, text: str = TEXT, *, number: int = 0, is_streamed: bool = False, **fields) -> DecodingJob:
    request = infiller.request(text, number=number, **fields)
    constraint = infiller.constraint(request)
    return DecodingJob(
        ids=request.ids, options=request.options, constraint=constraint, number=number, is_streamed=is_streamed
    )


def random_fields(rng: np.random.Generator) -> dict[str, Any]:
    """Options of all kinds."""
    fields: dict[str, Any] = {"max_new_tokens": int(rng.integers(8, 40))}
    if rng.random() < 0.3:
        fields["constrain"] = False
    if rng.random() < 0.3:
        fields["repetition_penalty"] = float(rng.choice([0.8, 1.3]))
    kind = rng.choice(["greedy", "beams", "samples"])
    if kind == "beams":
        beams = int(rng.integers(2, 6))
        fields |= {"num_beams": beams, "num_return_sequences": int(rng.integers(1, beams + 1))}
    if kind == "samples":
        fields |= {"do_sample": True, "seed": int(rng.integers(99)), "num_return_sequences": int(rng.integers(1, 4))}
    return fields


def random_job(rng: np.random.Generator, infiller: Infiller) -> DecodingJob:
    text, number = TEXTS[rng.integers(len(TEXTS))], int(rng.integers(4))
    return job(infiller, text, number=number, is_streamed=bool(rng.random() < 0.4), **random_fields(rng))

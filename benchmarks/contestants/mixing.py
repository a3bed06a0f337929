"""Requests of many kinds that come and go in shared steps, beside each by itself."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from contestants.searches import SEARCHES
from pointsman import DecodingOptions, SwitchModel
from pointsman.running import Request

_FIRST_ORDINARY_ID, _EOS = 3, 1
_NEW_TOKENS, _LONGEST = (8, 40), 60
_SAMPLED = {"do_sample": True, "seed": 5, "num_return_sequences": 2}
_MOST_ARRIVING = 4  # at a time


def mixture(model: SwitchModel, count: int) -> dict[str, Any]:
    """Decode random requests together, and each alone.

    Returns:
        `requests`; `equal`, of how many all tokens are those that they get alone; and the seconds of `together` and
        `alone`, each of the second time that it is done.
    """
    vocabulary = model.manifest.architecture.vocab_size
    requests = [_request(np.random.default_rng(number), vocabulary, number) for number in range(count)]
    for _ in range(2):
        began = time.perf_counter()
        together = _together(model, requests)
        between = time.perf_counter()
        alone = [_tokens(model.generate(each.input_ids, each.options)) for each in requests]
        ended = time.perf_counter()
    equal = sum(one == other for one, other in zip(together, alone, strict=True))
    return {"requests": count, "equal": equal, "together": between - began, "alone": ended - between}


def _request(rng: np.random.Generator, vocabulary: int, number: int) -> Request:
    kinds = (*SEARCHES, _SAMPLED)
    options = DecodingOptions(**kinds[number % len(kinds)] | {"max_new_tokens": int(rng.integers(*_NEW_TOKENS))})
    length = int(rng.integers(1, _LONGEST))
    ids = rng.integers(_FIRST_ORDINARY_ID, vocabulary * 3 // 4, length).tolist()  # sentinels are at the end
    return Request([[*ids, _EOS]], options)


def _together(model: SwitchModel, requests: Sequence[Request]) -> list[list[list[int]]]:
    """A few arrive at a time, while others are under way."""
    running, waiting, rng = model.running(), [*range(len(requests))], np.random.default_rng(len(requests))
    inside: dict[int, int] = {}
    found: dict[int, list[list[int]]] = {}
    while waiting or inside:
        if waiting and (not inside or rng.random() < 1 / 2):
            arriving = waiting[: int(rng.integers(1, _MOST_ARRIVING + 1))]
            del waiting[: len(arriving)]
            joined = running.join([requests[number] for number in arriving])
            inside |= {id(each): number for each, number in zip(joined, arriving, strict=True)}
        for progress in running.step():
            if progress.error is not None:
                raise progress.error
            if progress.is_last:
                found[inside.pop(id(progress.request))] = _tokens(progress.request.search.generations())
    return [found[number] for number in range(len(requests))]


def _tokens(generations: Any) -> list[list[int]]:  # noqa: ANN401 - of one input, or of all
    return [list(generation.token_ids) for of_input in generations for generation in of_input]

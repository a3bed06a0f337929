"""Random mixtures of requests that come and go: each answer is that of the request alone."""

import shutil
from collections.abc import Sequence

import numpy as np
import pytest

from exports import FORMS
from pointsman.decoding import DecodingOptions, Generation, SentinelConstraint
from pointsman.model import SwitchModel
from pointsman.running import Request
from pointsman_calib import quantize

SENTINELS = range(127, 117, -1)
MOST = 24  # requests of a mixture


def random_options(rng: np.random.Generator) -> DecodingOptions:
    options = {"max_new_tokens": int(rng.integers(6, 20 if rng.random() < 0.8 else 70))}
    if rng.random() < 0.3:
        options["repetition_penalty"] = float(rng.choice([0.8, 1.3]))
    if rng.random() < 0.2:
        options["no_repeat_ngram_size"] = int(rng.integers(1, 4))
    if rng.random() < 0.2:
        options["min_new_tokens"] = int(rng.integers(1, 6))
    kind = rng.choice(["greedy", "beams", "samples"])
    if kind == "beams":
        beams = int(rng.integers(2, 6))
        options |= {"num_beams": beams, "num_return_sequences": int(rng.integers(1, beams + 1))}
        options |= {"early_stopping": (True, False, "never")[rng.integers(3)]}
        options |= {"length_penalty": float(rng.choice([0.0, 1.0, 2.0]))}
    if kind == "samples":
        options |= {"do_sample": True, "seed": int(rng.integers(99)), "num_return_sequences": int(rng.integers(1, 4))}
        options |= {"temperature": float(rng.choice([0.7, 1.0, 1.5])), "top_k": int(rng.choice([0, 5, 50]))}
        options |= {"top_p": float(rng.choice([0.8, 1.0]))}
    return DecodingOptions(**options)


def random_request(rng: np.random.Generator, model: SwitchModel) -> Request:
    """One to three inputs, with or without the constraint."""
    options, inputs = random_options(rng), 1 if rng.random() < 0.6 else int(rng.integers(2, 4))
    longest = rng.choice([50, 50, 50, 300, 1200])  # one to nineteen blocks
    ids = [[*rng.integers(2, 118, rng.integers(1, longest)).tolist(), 1] for _ in range(inputs)]
    constraint = None
    if rng.random() < 0.4:
        blanks = [SENTINELS[: rng.integers(1, 4)] for _ in range(inputs)]
        tokens = model.special_tokens
        constraint = SentinelConstraint(blanks, all_sentinels=SENTINELS, tokens=tokens, options=options)
    return Request(ids, options, constraint, first_input=int(rng.integers(5)))


def mixed(
    model: SwitchModel, requests: Sequence[Request], rng: np.random.Generator
) -> dict[int, list[list[Generation]]]:
    """What is found for those that are not taken out before."""
    running, waiting = model.running(), [*range(len(requests))]
    inside, found = {}, {}
    while waiting or inside:
        if waiting and (not inside or rng.random() < 0.4):
            now, waiting = waiting[: (count := rng.integers(1, 5))], waiting[count:]
            inside |= zip(now, running.join([requests[number] for number in now]), strict=True)
        if rng.random() < 0.05:
            running.remove(inside.pop(int(rng.choice([*inside]))))
        for progress in running.step():
            assert progress.error is None
            if progress.is_last:
                (number,) = [number for number, request in inside.items() if request is progress.request]
                found[number] = inside.pop(number).search.generations()
    assert len(running) == 0
    return found


SEEDS = [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 40))]


def check_a_mixture(model: SwitchModel, seed: int) -> None:
    rng = np.random.default_rng(seed)
    requests = [random_request(rng, model) for _ in range(MOST)]
    found = mixed(model, requests, rng)
    assert len(found) > MOST // 2
    for number, generations in found.items():
        request = requests[number]
        given = {"constraint": request.constraint, "first_input": request.first_input}
        assert generations == model.generate(request.input_ids, request.options, **given)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["tied", "gated"])
def test_answers_in_a_mixture_are_those_of_each_request_alone(exports, name, form, seed):
    """In float32 to the last bit of each score."""
    check_a_mixture(exports.model(name, form), seed)


@pytest.fixture(scope="module", params=["tied-int8", "gated-int8", "tied-int4"])
def quantized(exports, request, tmp_path_factory):
    name, _, scheme = request.param.partition("-")
    bundle = shutil.copytree(exports(name).folder, tmp_path_factory.mktemp(scheme) / "bundle")
    quantize(bundle, scheme)
    return SwitchModel.load(bundle, "cpu", f"fused-{scheme}")


@pytest.mark.parametrize("seed", SEEDS)
def test_so_they_are_in_integers(quantized, seed):
    check_a_mixture(quantized, seed)

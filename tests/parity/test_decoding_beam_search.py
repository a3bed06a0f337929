"""Beam search against `generate` of transformers 5.23.0, over the same tiny networks: same tokens, same scores."""

from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from transformers import LogitsProcessor as TorchLogitsProcessor
from transformers import LogitsProcessorList, SwitchTransformersForConditionalGeneration

from parity.decoding_reference import (
    CLOSING,
    SENTINELS,
    TOKENS,
    Inputs,
    TorchState,
    is_same_search,
    ours,
    theirs,
    tiny_model,
)
from pointsman.decoding import DecodingOptions, SentinelConstraint, decode

NEVER_ENDING, LATE, EARLY = 0.0, 9.0, 13.0  # biases of the eos logit
BATCH = Inputs.random([5, 9, 3], seed=7)
BEAMS, LENGTH_PENALTIES, EARLY_STOPPINGS = (2, 4, 8), (0, 0.6, 1, 2, -1), (False, True, "never")


@cache
def model(eos_bias: float, seed: int = 0) -> SwitchTransformersForConditionalGeneration:
    return tiny_model(seed=seed, eos_bias=eos_bias)


def random_options(rng: np.random.Generator) -> DecodingOptions:
    """Options of every kind, together."""
    num_beams = int(rng.choice([2, 3, 4, 8]))
    max_new_tokens = int(rng.integers(1, 13))
    return DecodingOptions(
        max_new_tokens=max_new_tokens,
        min_new_tokens=int(rng.integers(0, max_new_tokens + 1)) if rng.random() < 0.4 else 0,
        num_beams=num_beams,
        num_return_sequences=int(rng.integers(1, num_beams + 1)),
        length_penalty=float(rng.choice([0, 0.6, 1, 2, -1, 5])),
        early_stopping=EARLY_STOPPINGS[rng.integers(3)],
        repetition_penalty=float(rng.choice([1, 1, 1.3, 0.8])),
        no_repeat_ngram_size=int(rng.choice([0, 0, 1, 2, 3])),
    )


def near_ties_among_random_cases(first_seed: int, count: int) -> int:
    near_ties = 0
    for seed in range(first_seed, first_seed + count):
        rng = np.random.default_rng(seed)
        network = model(float(rng.choice([NEVER_ENDING, LATE, EARLY])), int(rng.integers(4)))
        inputs = Inputs.random(rng.integers(1, 10, size=rng.integers(1, 4)).tolist(), seed)
        options = random_options(rng)
        near_ties += not is_same_search(ours(network, inputs, options), theirs(network, inputs, options))
    return near_ties


@pytest.mark.parametrize("early_stopping", EARLY_STOPPINGS)
@pytest.mark.parametrize("num_beams", BEAMS)
@pytest.mark.parametrize("eos_bias", [LATE, EARLY])
def test_every_length_penalty(eos_bias, num_beams, early_stopping):
    for length_penalty in LENGTH_PENALTIES:
        options = DecodingOptions(
            max_new_tokens=10,
            num_beams=num_beams,
            num_return_sequences=num_beams,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
        )
        assert is_same_search(ours(model(eos_bias), BATCH, options), theirs(model(eos_bias), BATCH, options))


@pytest.mark.parametrize(
    "changed",
    [
        {"num_return_sequences": 1},
        {"max_new_tokens": 1},
        {"min_new_tokens": 6},
        {"min_new_tokens": 10},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 2},
        {"no_repeat_ngram_size": 3},
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.8},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 4},
    ],
    ids=str,
)
@pytest.mark.parametrize("eos_bias", [NEVER_ENDING, EARLY])
def test_each_other_option(eos_bias, changed):
    options = DecodingOptions(**{"max_new_tokens": 10, "num_beams": 4, "num_return_sequences": 4} | changed)
    assert is_same_search(ours(model(eos_bias), BATCH, options), theirs(model(eos_bias), BATCH, options))


@pytest.mark.parametrize("first_seed", range(0, 200, 25))
def test_random_combinations(first_seed):
    assert near_ties_among_random_cases(first_seed, 25) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("first_seed", range(1000, 2000, 100))
def test_many_random_combinations(first_seed):
    assert near_ties_among_random_cases(first_seed, 100) <= 2


def test_the_networks_end_at_different_lengths_and_do_not_always_end():
    """Without this the comparisons above would prove little."""
    options = DecodingOptions(max_new_tokens=10, num_beams=8, num_return_sequences=8)
    by_input = ours(model(EARLY), BATCH, options)
    assert all(len({g.token_ids for g in of_input}) == 8 for of_input in by_input)
    found = [g for of_input in by_input for g in of_input]
    assert {g.finish_reason for g in found} == {"eos", "length"}
    assert len({len(g.token_ids) for g in found}) >= 4


@pytest.mark.parametrize("length_penalty", LENGTH_PENALTIES)
def test_token_logprobs_add_up_to_the_score(length_penalty):
    options = DecodingOptions(
        max_new_tokens=10, num_beams=4, num_return_sequences=4, length_penalty=length_penalty, repetition_penalty=1.3
    )
    for generation in (g for of_input in ours(model(EARLY), BATCH, options) for g in of_input):
        length = len(generation.token_ids)
        assert len(generation.token_logprobs) == length
        assert generation.score == pytest.approx(sum(generation.token_logprobs) / length**length_penalty, abs=1e-4)


@pytest.mark.parametrize("early_stopping", EARLY_STOPPINGS)
@pytest.mark.parametrize("length_penalty", LENGTH_PENALTIES)
def test_the_search_takes_as_many_steps(length_penalty, early_stopping):
    options = DecodingOptions(
        max_new_tokens=15, num_beams=2, length_penalty=length_penalty, early_stopping=early_stopping
    )
    state = TorchState(model(EARLY), BATCH, options.num_beams)
    decode(state, len(BATCH), options, TOKENS)
    assert state.steps == len(theirs(model(EARLY), BATCH, options).output.scores)


def test_an_inputs_result_does_not_depend_on_the_batch():
    options = DecodingOptions(max_new_tokens=10, num_beams=4, num_return_sequences=4)
    together = ours(model(EARLY), BATCH, options)
    for index, length in enumerate(BATCH.attention_mask.sum(1).tolist()):
        alone = Inputs(BATCH.input_ids[index, None, :length], BATCH.attention_mask[index, None, :length])
        found = ours(model(EARLY), alone, options)[0]
        assert [g.token_ids for g in found] == [g.token_ids for g in together[index]]


class _OfTheConstraint(TorchLogitsProcessor):
    """The constraint as transformers takes it."""

    def __init__(self, constraint: SentinelConstraint) -> None:
        self._constraint = constraint

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self._constraint(input_ids.numpy(), scores.numpy().copy()))


@pytest.mark.parametrize("early_stopping", EARLY_STOPPINGS)
@pytest.mark.parametrize(("max_new_tokens", "length_penalty"), [*product((4, 5, 7, 12), (1, 5))])
def test_the_constraint_within_the_same_search(max_new_tokens, length_penalty, early_stopping):
    """Two blanks an input; to transformers the closing sentinel is a second eos, as it is to the constraint."""
    network = tiny_model(seed=0, eos_bias=EARLY, sentinel_bias=EARLY)
    options = DecodingOptions(
        max_new_tokens=max_new_tokens,
        num_beams=4,
        num_return_sequences=4,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
    )
    constraint = SentinelConstraint(
        [SENTINELS[:2]] * len(BATCH), all_sentinels=SENTINELS, tokens=TOKENS, options=options
    )
    reference = theirs(
        network,
        BATCH,
        options,
        ends=(*TOKENS.eos_ids, CLOSING),
        logits_processor=LogitsProcessorList([_OfTheConstraint(constraint)]),
    )
    assert is_same_search(ours(network, BATCH, options, constraint=constraint), reference)

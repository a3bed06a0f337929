"""Greedy search against `generate` of transformers 5.23.0, over the same tiny networks."""

import numpy as np
import pytest
import torch

from parity.decoding_reference import SCORE_TOLERANCE, TOKENS, Inputs, TorchState, ours, theirs, tiny_model
from pointsman.decoding import DecodingOptions, Generation, stream

BATCH = Inputs.random([5, 9, 3], seed=7)


@pytest.fixture(scope="module", params=[(0, 0.0), (0, 9.0), (1, 12.0), (2, 12.0)], ids=str)
def model(request):
    seed, eos_bias = request.param
    return tiny_model(seed=seed, eos_bias=eos_bias)


def logprobs_of(output, index: int, generation: Generation) -> list[float]:
    """From the processed scores that transformers returns, one tensor per step."""
    return [
        torch.log_softmax(step_scores[index], dim=-1)[token].item()
        for step_scores, token in zip(output.scores, generation.token_ids, strict=False)
    ]


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"max_new_tokens": 1},
        {"min_new_tokens": 8},
        {"min_new_tokens": 12},
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.8},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 2},
        {"no_repeat_ngram_size": 3},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 5},
    ],
    ids=str,
)
def test_tokens_and_their_logprobs(model, changed):
    options = DecodingOptions(**{"max_new_tokens": 12} | changed)
    reference = theirs(model, BATCH, options)
    for index, (generation,) in enumerate(ours(model, BATCH, options)):
        assert [generation.token_ids] == reference.token_ids[index]
        expected = logprobs_of(reference.output, index, generation)
        np.testing.assert_allclose(generation.token_logprobs, expected, rtol=0, atol=SCORE_TOLERANCE)
        assert generation.score == pytest.approx(sum(expected) / len(expected), abs=SCORE_TOLERANCE)


def test_some_sequences_end_early_and_others_do_not():
    """Without this the comparisons above would prove little."""
    options = DecodingOptions(max_new_tokens=12)
    found = [ours(tiny_model(seed=seed, eos_bias=12.0), BATCH, options) for seed in range(3)]
    assert {generation.finish_reason for by_input in found for (generation,) in by_input} == {"eos", "length"}


def test_the_stream_gives_what_decode_returns(model):
    options = DecodingOptions(max_new_tokens=12)
    streamed: list[list[int]] = [[] for _ in range(len(BATCH))]
    for events in stream(TorchState(model, BATCH, 1), len(BATCH), options, TOKENS):
        for event in events:
            streamed[event.input_index].append(event.token_id)
    assert [[tuple(ids)] for ids in streamed] == [[g.token_ids for g in by] for by in ours(model, BATCH, options)]

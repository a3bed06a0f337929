"""Processors and warpers against those of transformers 5.23.0: the same scores, the same distributions."""

import numpy as np
import pytest
import torch
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from pointsman.decoding import DecodingOptions, SpecialTokens, decode
from pointsman.decoding.rules import processors_of
from pointsman.decoding.sampling import warpers_of
from unit.decoding.random_network import Always

EOS = 1
TOKENS = SpecialTokens(pad_id=0, eos_ids=(EOS,), decoder_start_id=0)
ROWS, VOCABULARY = 5, 997


def named(parameter) -> str:
    """Options as they stand, processors by their class: what they print holds addresses, other ones in each process."""
    if isinstance(parameter, dict):
        return str(parameter)
    return " then ".join(type(processor).__name__ for processor in parameter) or "nothing"


def softmax(scores: np.ndarray) -> np.ndarray:
    return torch.softmax(torch.from_numpy(scores).double(), dim=-1).numpy()


def theirs(processors, prefixes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    result = torch.from_numpy(scores.copy())
    for processor in processors:
        result = processor(torch.from_numpy(prefixes), result)
    return result.numpy()


@pytest.mark.parametrize("spread", [0.5, 3.0, 12.0])
@pytest.mark.parametrize(
    ("options", "reference"),
    [
        ({"top_k": 0}, []),
        ({"top_k": 0, "temperature": 0.3}, [TemperatureLogitsWarper(0.3)]),
        ({"top_k": 0, "temperature": 2.5}, [TemperatureLogitsWarper(2.5)]),
        ({}, [TopKLogitsWarper(50)]),
        ({"top_k": 1}, [TopKLogitsWarper(1)]),
        ({"top_k": 5000}, [TopKLogitsWarper(5000)]),
        ({"top_k": 0, "top_p": 0.9}, [TopPLogitsWarper(0.9)]),
        ({"top_k": 0, "top_p": 0.01}, [TopPLogitsWarper(0.01)]),
        (
            {"top_k": 40, "top_p": 0.8, "temperature": 0.7},
            [TemperatureLogitsWarper(0.7), TopKLogitsWarper(40), TopPLogitsWarper(0.8)],
        ),
    ],
    ids=named,
)
def test_warped_distributions(options, reference, spread):
    scores = np.random.default_rng(3).normal(scale=spread, size=(ROWS, VOCABULARY)).astype(np.float32)
    warped = scores.copy()
    for warper in warpers_of(DecodingOptions(do_sample=True, **options)):
        warped = warper(warped)
    expected = theirs(reference, np.zeros((ROWS, 1), np.int64), scores)
    np.testing.assert_array_equal(warped == -np.inf, expected == -np.inf)
    np.testing.assert_allclose(softmax(warped), softmax(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("length", [1, 2, 3, 20])
@pytest.mark.parametrize(
    ("options", "reference"),
    [
        ({"repetition_penalty": 1.3}, [RepetitionPenaltyLogitsProcessor(1.3)]),
        ({"repetition_penalty": 0.8}, [RepetitionPenaltyLogitsProcessor(0.8)]),
        ({"no_repeat_ngram_size": 1}, [NoRepeatNGramLogitsProcessor(1)]),
        ({"no_repeat_ngram_size": 2}, [NoRepeatNGramLogitsProcessor(2)]),
        ({"no_repeat_ngram_size": 3}, [NoRepeatNGramLogitsProcessor(3)]),
        ({"min_new_tokens": 2}, [MinNewTokensLengthLogitsProcessor(1, 2, EOS, device="cpu")]),
        (
            {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 5},
            [
                RepetitionPenaltyLogitsProcessor(1.3),
                NoRepeatNGramLogitsProcessor(2),
                MinNewTokensLengthLogitsProcessor(1, 5, EOS, device="cpu"),
            ],
        ),
    ],
    ids=named,
)
def test_processed_scores(options, reference, length):
    rng = np.random.default_rng(length)
    scores = rng.normal(size=(ROWS, 12)).astype(np.float32)
    scores[0, 3] = -np.inf  # what one processor has ruled out, the next must leave so
    prefixes = rng.integers(0, 12 if length < 20 else 4, size=(ROWS, length))
    processed = scores.copy()
    for processor in processors_of(DecodingOptions(**options), TOKENS):
        processed = processor(prefixes, processed)
    np.testing.assert_allclose(processed, theirs(reference, prefixes, scores), rtol=1e-6, atol=0)


def test_tokens_are_drawn_as_often_as_the_warpers_say():
    """4096 draws of one token against the distribution of transformers' warpers."""
    logits = np.random.default_rng(5).normal(scale=2.0, size=(1, 30)).astype(np.float32)
    options = DecodingOptions(
        do_sample=True, temperature=0.8, top_k=10, top_p=0.9, max_new_tokens=1, num_return_sequences=4096, seed=1
    )
    warpers = [TemperatureLogitsWarper(0.8), TopKLogitsWarper(10), TopPLogitsWarper(0.9)]
    expected = softmax(theirs(warpers, np.zeros((1, 1), np.int64), logits))[0]
    (drawn,) = decode(
        Always(logits[0]),
        1,
        options,
        TOKENS,
    )
    counts = np.bincount([generation.token_ids[0] for generation in drawn], minlength=30)
    assert (counts[expected == 0] == 0).all()
    np.testing.assert_allclose(counts / len(drawn), expected, atol=0.03)

"""Ends, forced, suppressed and bad tokens against `generate` of transformers 5.23.0, greedily and with beams."""

from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
from transformers import SwitchTransformersForConditionalGeneration

from parity.decoding_reference import TOKENS, VOCABULARY, Inputs, TorchState, is_same_search, ours, theirs, tiny_model
from pointsman.decoding import DecodingOptions, SpecialTokens, decode

BATCH = Inputs.random([5, 9, 3], seed=7)
SEEDS = range(3)
# Each is of tokens that these models like to say: see the last test.
CASES: dict[str, tuple[SpecialTokens, dict[str, object]]] = {
    "two ends": (replace(TOKENS, eos_ids=(1, 68)), {"eos_token_id": [1, 68]}),
    "five ends": (replace(TOKENS, eos_ids=(68, 1, 8, 70, 55)), {"eos_token_id": [68, 1, 8, 70, 55]}),
    "another start": (replace(TOKENS, decoder_start_id=55), {"decoder_start_token_id": 55}),
    "suppressed": (replace(TOKENS, suppressed=(68, 8, 70)), {"suppress_tokens": [68, 8, 70]}),
    "suppressed first": (replace(TOKENS, suppressed_first=(68, 8, 1)), {"begin_suppress_tokens": [68, 8, 1]}),
    "forced first": (replace(TOKENS, forced_first=21), {"forced_bos_token_id": 21}),
    "forced first, suppressed after it": (
        replace(TOKENS, forced_first=21, suppressed_first=(68, 8, 21)),
        {"forced_bos_token_id": 21, "begin_suppress_tokens": [68, 8, 21]},
    ),
    "forced last": (replace(TOKENS, forced_last=(1,)), {"forced_eos_token_id": 1}),
    "one of two forced last": (
        replace(TOKENS, eos_ids=(1, 68), forced_last=(68, 1)),
        {"eos_token_id": [1, 68], "forced_eos_token_id": [68, 1]},
    ),
    "bad words": (
        replace(TOKENS, bad_words=((68,), (8, 28), (0, 21, 79), (70, 70), (1,))),
        {"bad_words_ids": [[68], [8, 28], [0, 21, 79], [70, 70], [1]]},
    ),
    "all of them": (
        replace(
            TOKENS,
            eos_ids=(1, 68),
            decoder_start_id=55,
            suppressed=(8,),
            suppressed_first=(70,),
            bad_words=((21, 21), (12,)),
            forced_first=21,
            forced_last=(68,),
        ),
        {
            "eos_token_id": [1, 68],
            "decoder_start_token_id": 55,
            "suppress_tokens": [8],
            "begin_suppress_tokens": [70],
            "bad_words_ids": [[21, 21], [12]],
            "forced_bos_token_id": 21,
            "forced_eos_token_id": 68,
        },
    ),
}
OPTIONS = (
    {},
    {"min_new_tokens": 5},
    {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
    {"num_beams": 3, "num_return_sequences": 3},
    {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 2.0, "early_stopping": True},
    {"num_beams": 2, "min_new_tokens": 6, "early_stopping": "never"},
)


@cache
def model(seed: int) -> SwitchTransformersForConditionalGeneration:
    return tiny_model(seed=seed, eos_bias=6.0)


@pytest.mark.parametrize(("tokens", "settings"), CASES.values(), ids=CASES.keys())
def test_the_same_search(tokens, settings):
    near_ties = 0
    for seed, options in product(SEEDS, OPTIONS):
        options = DecodingOptions(max_new_tokens=10, **options)
        reference = theirs(model(seed), BATCH, options, ends=tokens.eos_ids, settings=settings)
        generations = ours(model(seed), BATCH, options, tokens=tokens)
        if options.num_beams > 1:
            # Tokens that are forced together have the same score: which is taken is nobody's promise.
            near_ties += not is_same_search(generations, reference) and len(tokens.forced_last) < 2
        else:
            assert [[one.token_ids for one in of_input] for of_input in generations] == reference.token_ids
    assert near_ties <= 1


@pytest.mark.parametrize("case", [name for name in CASES if name not in {"another start", "forced first"}])
def test_samples_are_drawn_from_what_is_left(case):
    """transformers draws otherwise: what may come is compared, over many draws."""
    tokens, _ = CASES[case]
    options = DecodingOptions(max_new_tokens=5, do_sample=True, top_k=0, num_return_sequences=300, seed=1)
    inputs = Inputs.random([6], seed=3)
    (samples,) = decode(TorchState(model(0), inputs, 300), 1, options, tokens)
    said = [one.token_ids for one in samples]
    assert len(set(said)) > 50
    banned = set(tokens.suppressed) | {ids[0] for ids in tokens.bad_words if len(ids) == 1} - set(tokens.eos_ids)
    assert not banned & {token for ids in said for token in ids}
    for ids, one in zip(said, samples, strict=True):
        ended = ids[-1] in tokens.eos_ids
        assert (one.finish_reason == "eos") is ended
        assert not set(ids[:-1]) & set(tokens.eos_ids)
        assert ended or not tokens.forced_last or len(ids) < 5
        begun = (tokens.decoder_start_id, *ids)
        for word in (word for word in tokens.bad_words if len(word) > 1):
            assert not any(begun[at : at + len(word)] == word for at in range(len(begun)))


def test_every_case_changes_what_is_said():
    """Without this the comparisons above would prove little."""
    options = DecodingOptions(max_new_tokens=10)
    plain = [[g.token_ids for (g,) in ours(model(seed), BATCH, options)] for seed in SEEDS]
    for name, (tokens, _) in CASES.items():
        changed = [[g.token_ids for (g,) in ours(model(seed), BATCH, options, tokens=tokens)] for seed in SEEDS]
        assert changed != plain, name
    assert np.unique([token for of_seed in plain for ids in of_seed for token in ids]).size > 5
    assert max(token for tokens, _ in CASES.values() for token in tokens.eos_ids) < VOCABULARY

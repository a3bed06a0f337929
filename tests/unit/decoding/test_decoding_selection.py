"""Decoding from the tokens that an engine selects finds what decoding from all logits finds."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from pointsman.decoding import DecodingOptions, SentinelConstraint, decode
from pointsman.errors import OptionsError, ParityError
from tolerances import SCORE
from unit.decoding.constraints import Nothing
from unit.decoding.random_network import ALL_SENTINELS, TOKENS, VOCABULARY, Always, RandomNetwork
from unit.decoding.selecting import Selecting

RULES = (
    {},
    {"min_new_tokens": 6},
    {"repetition_penalty": 1.4},
    {"repetition_penalty": 0.7, "min_new_tokens": 12},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2, "repetition_penalty": 1.2},
)
BLANKS = [[39, 38], [37, 36, 35]]


class Ties(RandomNetwork):
    """Few different logits, as in half precision."""

    def _logits(self, row, prefix):
        return np.round(super()._logits(row, prefix))


def both_ways(options, *, constrain, network=RandomNetwork, tokens=TOKENS):
    constraint = None
    if constrain:
        constraint = SentinelConstraint(
            BLANKS, all_sentinels=ALL_SENTINELS, tokens=tokens, options=options, white_space=range(2, 20)
        )
    rows = max(options.num_beams, options.num_return_sequences)
    whole, underlying = (network(rows, seed=5, bias={1: 2.0}) for _ in range(2))
    selecting = Selecting(underlying, VOCABULARY)
    found = [decode(state, 2, options, tokens, constraint=constraint) for state in (whole, selecting)]
    return *found, selecting


def check(whole, selected):
    for ours, theirs in zip([g for of in selected for g in of], [g for of in whole for g in of], strict=True):
        assert (ours.token_ids, ours.finish_reason) == (theirs.token_ids, theirs.finish_reason)
        SCORE.check(ours.score, theirs.score)
        SCORE.check(ours.token_logprobs, theirs.token_logprobs)


@pytest.mark.parametrize("network", [RandomNetwork, Ties])
@pytest.mark.parametrize("constrain", [False, True], ids=["free", "constrained"])
@pytest.mark.parametrize(("beams", "rules"), [*product((1, 3, 4), RULES)])
def test_the_same_tokens_and_scores(beams, rules, constrain, network):
    options = DecodingOptions(num_beams=beams, num_return_sequences=beams, max_new_tokens=12, **rules)
    whole, selected, state = both_ways(options, constrain=constrain, network=network)
    check(whole, selected)
    assert state.selections > 0
    assert state.steps == 0


@pytest.mark.parametrize("constrain", [False, True], ids=["free", "constrained"])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(
    "tokens",
    [
        {"eos_ids": (1, 20, 21)},
        {"suppressed": (22, 23, 24, 25)},
        {"suppressed_first": (22, 23, 24, 25)},
        {"bad_words": ((22,), (23, 24), (0, 25))},
        {"forced_last": (1,)},
        {"eos_ids": (1, 20), "suppressed": (22,), "bad_words": ((23, 23),), "forced_last": (20,)},
    ],
    ids=str,
)
def test_the_same_with_tokens_that_are_forced_or_suppressed(tokens, beams, constrain):
    options = DecodingOptions(num_beams=beams, num_return_sequences=beams, max_new_tokens=12)
    whole, selected, state = both_ways(options, constrain=constrain, tokens=replace(TOKENS, **tokens))
    check(whole, selected)
    assert state.steps == 0


@pytest.mark.parametrize("beams", [1, 3])
def test_the_same_where_the_first_token_is_forced(beams):
    options = DecodingOptions(num_beams=beams, num_return_sequences=beams, max_new_tokens=12)
    whole, selected, _ = both_ways(options, constrain=False, tokens=replace(TOKENS, forced_first=30))
    check(whole, selected)
    assert {of[0].token_ids[0] for of in whole} == {30}


def test_sampling_sees_all_logits():
    options = DecodingOptions(do_sample=True, seed=1, num_return_sequences=3, max_new_tokens=5)
    whole, selected, state = both_ways(options, constrain=False)
    assert whole == selected
    assert state.selections == 0


def test_more_than_an_engine_selects_is_taken_from_all_logits():
    state = Selecting(RandomNetwork(4), VOCABULARY, most_selected=7)
    decode(state, 1, DecodingOptions(num_beams=4, max_new_tokens=3), TOKENS)  # needs 8
    assert (state.selections, state.steps) == (0, 3)


@pytest.mark.parametrize("search", [{}, {"num_beams": 3}], ids=str)
def test_nowhere_to_go(search):
    options = DecodingOptions(max_new_tokens=4, **search)
    state = Selecting(RandomNetwork(options.num_beams), VOCABULARY)
    with pytest.raises(OptionsError, match="together leave no possible token"):
        decode(state, 1, options, TOKENS, constraint=Nothing(inputs=1, forbidden=0))
    assert state.steps == 0


@pytest.mark.parametrize("place", [3, 39])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite(bad, place):
    logits = np.zeros(VOCABULARY, np.float32)
    logits[place] = bad
    options = DecodingOptions(max_new_tokens=3)
    constraint = SentinelConstraint([[39]], all_sentinels=ALL_SENTINELS, tokens=TOKENS, options=options)
    state = Selecting(Always(logits), VOCABULARY)
    with pytest.raises(ParityError, match="not finite at token 1"):
        decode(state, 1, options, TOKENS, constraint=constraint)

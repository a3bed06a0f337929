"""Whatever the network prefers, constrained output fills every blank."""

import numpy as np
import pytest

from pointsman.decoding import DecodingOptions, Generation, SentinelConstraint, check_room, decode
from pointsman.errors import OptionsError
from unit.decoding.random_network import ALL_SENTINELS, TOKENS, VOCABULARY, RandomNetwork

UNUSED = (28, 29)
WHITE_SPACE = (5, 27)

SEARCHES = {
    "greedy": {},
    "beam": {"num_beams": 4, "num_return_sequences": 4},
    "early beam": {"num_beams": 3, "num_return_sequences": 2, "early_stopping": True, "length_penalty": -1.0},
    "sampling": {"do_sample": True, "num_return_sequences": 3, "seed": 5, "top_k": 0, "temperature": 3.0},
    "rules": {"num_beams": 4, "num_return_sequences": 2, "repetition_penalty": 1.4, "no_repeat_ngram_size": 2},
}
NETWORKS = {
    "indifferent": {},
    "wants to end": {TOKENS.eos_ids[0]: 30.0},
    "never ends": {TOKENS.eos_ids[0]: -30.0},
    "loves sentinels": dict.fromkeys(ALL_SENTINELS, 20.0),
    "avoids sentinels": dict.fromkeys(ALL_SENTINELS, -40.0),
    "loves pad and the unused": dict.fromkeys((TOKENS.pad_id, *UNUSED), 25.0),
    "loves white space": dict.fromkeys(WHITE_SPACE, 25.0),
    "loves white space and to end": dict.fromkeys((*WHITE_SPACE, TOKENS.eos_ids[0], *ALL_SENTINELS), 25.0),
}
BATCHES = [[[39]], [[39, 38]], [[39], [39, 38, 37], [35, 31]], [[30]], [[39, 38, 37, 36, 35]]]


def constraint_for(sentinels, options) -> SentinelConstraint:
    return SentinelConstraint(
        sentinels,
        all_sentinels=ALL_SENTINELS,
        tokens=TOKENS,
        options=options,
        forbidden=UNUSED,
        white_space=WHITE_SPACE,
    )


def constrained(sentinels, bias, seed=0, **options) -> list[list[Generation]]:
    chosen = DecodingOptions(**options)
    rows = max(chosen.num_beams, chosen.num_return_sequences)
    network = RandomNetwork(rows, seed, bias)
    return decode(network, len(sentinels), chosen, TOKENS, constraint=constraint_for(sentinels, chosen))


def check(generation: Generation, sentinels: list[int], max_new_tokens: int) -> None:
    """Parse the output by the grammar, independently of how the constraint keeps its state."""
    ids = list(generation.token_ids)
    assert len(ids) <= max_new_tokens
    ends = {TOKENS.eos_ids[0]}
    if sentinels[-1] - 1 in ALL_SENTINELS and sentinels[-1] - 1 not in sentinels:
        ends.add(sentinels[-1] - 1)
    if generation.finish_reason == "eos":
        assert ids.pop() in ends
    else:
        assert len(ids) == max_new_tokens
    starts = [index for index, token in enumerate(ids) if token in ALL_SENTINELS]
    assert [ids[start] for start in starts] == sentinels
    assert starts[0] == 0
    spans = [ids[start + 1 : end] for start, end in zip(starts, [*starts[1:], len(ids)], strict=True)]
    assert all(set(span) - set(WHITE_SPACE) for span in spans)
    assert not {TOKENS.pad_id, TOKENS.eos_ids[0], *UNUSED} & set(ids)


@pytest.mark.parametrize("bias", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("sentinels", BATCHES, ids=str)
def test_every_output_is_well_formed(sentinels, search, bias):
    tightest = 2 * max(map(len, sentinels))
    for max_new_tokens in (tightest, tightest + 1, tightest + 2, tightest + 9):
        found = constrained(sentinels, bias, max_new_tokens=max_new_tokens, **search)
        for of_input, ids in zip(found, sentinels, strict=True):
            assert len(of_input) == search.get("num_return_sequences", 1)
            for generation in of_input:
                check(generation, ids, max_new_tokens)


def test_the_closing_sentinel_ends_a_sequence_as_eos_does():
    ((generation,),) = constrained([[39, 38]], {37: 20.0, 38: 20.0}, max_new_tokens=12)
    assert generation.token_ids[-1] == 37
    assert generation.finish_reason == "eos"
    assert len(generation.token_ids) == 5


def test_a_sentinel_of_the_input_never_closes_it():
    """After `<extra_id_1> <extra_id_0>`, the sentinel that follows in the vocabulary has been used."""
    ((generation,),) = constrained([[38, 39]], {38: 20.0, 39: 20.0}, max_new_tokens=12)
    check(generation, [38, 39], 12)
    assert generation.token_ids.count(38) == 1


def test_min_new_tokens_holds_back_both_endings():
    wants_to_end = {TOKENS.eos_ids[0]: 30.0, 38: 29.0}
    ((generation,),) = constrained([[39]], wants_to_end, max_new_tokens=12, min_new_tokens=7)
    assert len(generation.token_ids) == 8
    check(generation, [39], 12)


def test_what_is_allowed_keeps_its_score():
    options = DecodingOptions(max_new_tokens=8)
    prefixes = np.array([[0, 39, 6], [0, 39, 6]])
    scores = np.random.default_rng(0).normal(size=(2, VOCABULARY)).astype(np.float32)
    processed = constraint_for([[39, 38], [39]], options)(prefixes, scores.copy())
    ordinary = set(range(2, 28))
    for row, may_come in ((0, ordinary | {38}), (1, ordinary | {TOKENS.eos_ids[0], 38})):
        assert set(np.flatnonzero(processed[row] > -np.inf).tolist()) == may_come
        np.testing.assert_array_equal(processed[row, sorted(may_come)], scores[row, sorted(may_come)])


@pytest.mark.parametrize(
    ("prefix", "ends", "text", "space"),
    [
        ([0], False, False, False),
        ([0, 39], False, True, True),
        ([0, 39, 5], False, True, True),
        ([0, 39, 5, 27], False, True, False),  # room for one token more, which must be text
        ([0, 39, 6], True, True, True),
        ([0, 39, 6, 5], True, True, True),
        ([0, 39, 5, 6, 27], True, False, False),
    ],
)
def test_white_space_makes_no_span(prefix, ends, text, space):
    constraint = constraint_for([[39]], DecodingOptions(max_new_tokens=4))
    (scores,) = constraint(np.array([prefix]), np.zeros((1, VOCABULARY), np.float32)) > -np.inf
    assert scores[[TOKENS.eos_ids[0], 38]].tolist() == [ends, ends]
    assert (scores[6], scores[5], scores[27]) == (text, space, space)


def test_fewer_sequences_than_beams_when_no_more_are_possible():
    """One blank, two tokens of room and one ordinary token: there is one way to fill it."""
    only_token = 7
    options = DecodingOptions(max_new_tokens=2, num_beams=4, num_return_sequences=4)
    constraint = SentinelConstraint(
        [[39]],
        all_sentinels=ALL_SENTINELS,
        tokens=TOKENS,
        options=options,
        forbidden={*range(2, 30)} - {only_token},
    )
    ((generation,),) = decode(RandomNetwork(4), 1, options, TOKENS, constraint=constraint)
    assert generation.token_ids == (39, only_token)
    assert generation.finish_reason == "length"


@pytest.mark.parametrize(("blanks", "room"), [(1, 2), (3, 6), (3, 7)])
def test_room_for_every_blank(blanks, room):
    check_room(blanks, room, 0)


def test_too_little_room():
    with pytest.raises(OptionsError) as caught:
        check_room(3, 5, 1)
    assert str(caught.value) == (
        "max_new_tokens 5 is too few for the 3 blanks of input 1; use at least 6, two for each blank"
    )

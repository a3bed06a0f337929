"""Greedy search, sampling and streaming over a stand-in network."""

import numpy as np
import pytest

from pointsman.decoding import DecodingOptions, decode, stream
from pointsman.errors import OptionsError, ParityError
from unit.decoding.constraints import Nothing, Wanting
from unit.decoding.random_network import TOKENS, VOCABULARY, Always, RandomNetwork
from unit.decoding.selecting import Selecting

ENDS_SOON = {TOKENS.eos_ids[0]: 4.0}


def test_finished_rows_feed_pad_until_all_are_done():
    network = RandomNetwork(1, bias=ENDS_SOON)
    found = decode(network, 5, DecodingOptions(max_new_tokens=20), TOKENS)
    sequences = [generation.token_ids for (generation,) in found]
    lengths = [len(ids) for ids in sequences]
    assert min(lengths) < max(lengths) == len(network.fed)
    assert network.fed[0] == [TOKENS.decoder_start_id] * 5
    for position, fed in enumerate(network.fed[1:]):
        assert fed == [ids[position] if position + 1 < len(ids) else TOKENS.pad_id for ids in sequences]


def test_of_equal_scores_the_first_token_is_taken():
    logits = np.zeros(VOCABULARY, np.float32)
    logits[[5, 9]] = 1
    ((generation,),) = decode(Always(logits), 1, DecodingOptions(max_new_tokens=2), TOKENS)
    assert generation.token_ids == (5, 5)
    assert generation.finish_reason == "length"


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0, -1.0])
@pytest.mark.parametrize("sampling", [{}, {"do_sample": True, "seed": 3}], ids=["greedy", "sampling"])
def test_scores_are_normalised_by_length_as_for_beams(sampling, length_penalty):
    options = DecodingOptions(max_new_tokens=9, length_penalty=length_penalty, **sampling)
    for (generation,) in decode(RandomNetwork(1, bias=ENDS_SOON), 4, options, TOKENS):
        length = len(generation.token_ids)
        assert generation.score == pytest.approx(sum(generation.token_logprobs) / length**length_penalty)


def test_sampled_logprobs_are_the_networks_own():
    """They are those before temperature, top-k and top-p: greedy search finds the same tokens as likely."""
    narrow = DecodingOptions(max_new_tokens=6, do_sample=True, top_k=1, temperature=0.1)
    sampled = decode(RandomNetwork(1), 3, narrow, TOKENS)
    greedy = decode(RandomNetwork(1), 3, DecodingOptions(max_new_tokens=6), TOKENS)
    assert sampled == greedy


def sample(input_ids: tuple[int, ...], **options) -> list[list[tuple[int, ...]]]:
    chosen = DecodingOptions(do_sample=True, max_new_tokens=8, top_k=0, temperature=2.0, **options)
    network = RandomNetwork(chosen.num_return_sequences, bias=ENDS_SOON, input_ids=input_ids)
    found = decode(network, len(input_ids), chosen, TOKENS)
    return [[generation.token_ids for generation in of_input] for of_input in found]


def test_a_seed_decides_the_samples():
    assert sample((1, 2), seed=7) == sample((1, 2), seed=7)
    assert sample((1, 2), seed=7) != sample((1, 2), seed=8)
    assert sample((1, 2)) != sample((1, 2))


def test_a_sample_does_not_depend_on_the_rest_of_the_batch():
    assert sample((1, 2, 3), seed=7)[:2] == sample((1, 2), seed=7)
    assert sample((1, 9, 3), seed=7)[2] == sample((1, 2, 3), seed=7)[2]
    few, many = sample((1, 2), seed=7, num_return_sequences=2), sample((1, 2), seed=7, num_return_sequences=5)
    assert [of_input[:2] for of_input in many] == few
    assert len({*many[0]}) > 1


@pytest.mark.parametrize("sampling", [{}, {"do_sample": True, "seed": 3, "num_return_sequences": 2}], ids=str)
def test_the_stream_gives_each_token_once_and_why_it_ends(sampling):
    options = DecodingOptions(max_new_tokens=9, **sampling)
    count = options.num_return_sequences
    found = decode(RandomNetwork(count, bias=ENDS_SOON), 3, options, TOKENS)
    events = [*stream(RandomNetwork(count, bias=ENDS_SOON), 3, options, TOKENS)]
    assert len(events) == max(len(g.token_ids) for of_input in found for g in of_input)
    for input_index, of_input in enumerate(found):
        for return_index, generation in enumerate(of_input):
            own = [e for step in events for e in step if (e.input_index, e.return_index) == (input_index, return_index)]
            assert tuple(e.token_id for e in own) == generation.token_ids
            assert tuple(e.logprob for e in own) == generation.token_logprobs
            assert [e.finish_reason for e in own] == [None] * (len(own) - 1) + [generation.finish_reason]


def test_the_stream_runs_one_step_at_a_time():
    network = RandomNetwork(1)
    events = stream(network, 1, DecodingOptions(max_new_tokens=9), TOKENS)
    assert len(network.fed) == 0
    next(iter(events))
    assert len(network.fed) == 1


def test_beams_cannot_be_streamed():
    with pytest.raises(OptionsError, match=r"num_beams 4 cannot be streamed.*; use num_beams=1"):
        stream(RandomNetwork(4), 1, DecodingOptions(num_beams=4), TOKENS)


@pytest.mark.parametrize("selects", [False, True])
def test_the_constraint_comes_after_the_processors_of_the_options(selects):
    network = RandomNetwork(1)
    state = Selecting(network, VOCABULARY) if selects else network
    options = DecodingOptions(max_new_tokens=9, min_new_tokens=5)
    ((generation,),) = decode(state, 1, options, TOKENS, constraint=Wanting(TOKENS.eos_ids[0]))
    assert generation.token_ids == (TOKENS.eos_ids[0],)


SEARCHES = [{}, {"do_sample": True}, {"num_beams": 3}]


class Breaking:
    """A state that computes one logit that is not finite in its second step."""

    def __init__(self, value: float) -> None:
        self.later = [5.0, value]

    def step(self, token_ids, beam_rows):
        logits = np.zeros((*token_ids.shape, VOCABULARY), np.float32)
        logits[-1, :, 7] = self.later.pop(0)
        return logits


@pytest.mark.parametrize("search", SEARCHES, ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_stop_the_search(value, search):
    with pytest.raises(ParityError, match="logits are not finite at token 2"):
        decode(Breaking(value), 2, DecodingOptions(min_new_tokens=4, top_k=50, **search), TOKENS)


@pytest.mark.parametrize("search", SEARCHES, ids=str)
def test_rules_that_leave_no_token_are_named(search):
    options = DecodingOptions(max_new_tokens=3, **search)
    for first, wrong in ((0, 1), (6, 7)):
        with pytest.raises(OptionsError) as caught:
            decode(
                RandomNetwork(options.num_beams),
                2,
                options,
                TOKENS,
                constraint=Nothing(inputs=2, forbidden=1),
                first_input=first,
            )
        assert str(caught.value) == (
            f"input {wrong}: no_repeat_ngram_size, min_new_tokens and the constraint together leave no possible token; "
            "relax one of them"
        )

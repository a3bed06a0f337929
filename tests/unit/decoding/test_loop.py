"""The loop: requests join and leave between steps, and each finds what it finds alone."""

from collections.abc import Sequence

import numpy as np
import pytest

from pointsman.decoding import (
    DecodingOptions,
    Feed,
    Generation,
    Loop,
    OneAfterAnother,
    OwnState,
    SentinelConstraint,
    decode,
    search_of,
)
from pointsman.errors import OptionsError, ParityError
from unit.decoding.constraints import Nothing
from unit.decoding.random_network import ALL_SENTINELS, TOKENS, VOCABULARY, RandomNetwork
from unit.decoding.selecting import Selecting, selected

ENDS_SOON = {TOKENS.eos_ids[0]: 4.0}


class Asked:
    """A request, as tests put it: some inputs, which a network tells apart by the request's seed and their numbers."""

    def __init__(self, inputs: int, *, network: int = 0, blanks: Sequence[int] = (), first: int = 0, **options) -> None:
        self.inputs, self.network, self.first = inputs, network, first
        self.options = DecodingOptions(**options)
        self.rows_per_input = max(self.options.num_beams, self.options.num_return_sequences)
        self.constraint = None
        if blanks:
            self.constraint = SentinelConstraint(
                [ALL_SENTINELS[number : number + count] for number, count in enumerate(blanks)],
                all_sentinels=ALL_SENTINELS,
                tokens=TOKENS,
                options=self.options,
            )

    def state(self) -> RandomNetwork:
        return RandomNetwork(self.rows_per_input, self.network, ENDS_SOON)

    def alone(self) -> list[list[Generation]]:
        given = {"constraint": self.constraint, "first_input": self.first}
        return decode(self.state(), self.inputs, self.options, TOKENS, **given)

    def search(self, selects=None):
        given = {"constraint": self.constraint, "first_input": self.first, "selects": selects}
        return search_of(self.inputs, self.options, TOKENS, **given)


REQUESTS = [
    Asked(3, max_new_tokens=9),
    Asked(2, network=1, max_new_tokens=12, num_beams=3, num_return_sequences=2),
    Asked(1, network=2, max_new_tokens=7),
    Asked(4, network=3, max_new_tokens=10, do_sample=True, seed=1, num_return_sequences=2, first=5, temperature=2.0),
    Asked(3, network=4, blanks=[1, 3, 2], max_new_tokens=14, num_beams=2, early_stopping=True),
    Asked(3, network=5, blanks=[2, 1, 1], max_new_tokens=11, repetition_penalty=1.3),
    Asked(2, network=6, max_new_tokens=8, num_beams=4, no_repeat_ngram_size=2, early_stopping="never"),
    Asked(3, network=7, blanks=[1, 2, 2], max_new_tokens=9, do_sample=True, seed=8, num_return_sequences=2),
]


class Rows:
    """Rows of a request on an engine that leaves out those that are gone."""

    def __init__(self, asked: Asked, selects=None) -> None:
        self.asked, self.selects = asked, selects
        self.inputs = np.repeat(np.arange(asked.inputs), asked.rows_per_input)
        self.prefixes: list[tuple[int, ...]] = [() for _ in self.inputs]

    def step(self, feed: Feed):
        if feed.kept is not None:
            assert (np.diff(feed.kept) > 0).all()
            self.inputs = self.inputs[feed.kept]
            self.prefixes = [self.prefixes[row] for row in feed.kept]
        assert (self.inputs == self.inputs[feed.parents]).all()
        assert feed.token_ids.flags.c_contiguous
        self.prefixes = [
            (*self.prefixes[parent], token) for parent, token in zip(feed.parents, feed.token_ids.tolist(), strict=True)
        ]
        assert len(self.prefixes) == len(self.inputs)
        network = RandomNetwork(1, self.asked.network, ENDS_SOON, tuple(range(self.asked.inputs)))
        logits = np.stack(
            [network._logits(number, prefix) for number, prefix in zip(self.inputs, self.prefixes, strict=True)]
        )
        return logits if feed.wanted is None else selected(logits, *feed.wanted)


class Engine:
    """Steps them, all that there are, and counts."""

    def __init__(self) -> None:
        self.held: list[Rows] = []
        self.stepped: list[int] = []  # rows of each step

    def admit(self, loop: Loop, asked: Asked):
        self.held.append(Rows(asked))
        return loop.admit(asked.search(), self.held[-1])

    def step(self, feeds):
        assert [rows for rows, _ in feeds] == self.held
        answers = [rows.step(feed) for rows, feed in feeds]
        self.stepped.append(sum(len(rows.inputs) for rows in self.held))
        return answers

    def release(self, rows: Rows) -> None:
        self.held.remove(rows)


def run(loop: Loop) -> None:
    while len(loop):
        for progress in loop.step():
            assert progress.error is None


@pytest.mark.parametrize("seed", range(8))
def test_each_finds_what_it_finds_alone_whenever_others_come_and_go(seed):
    rng, engine = np.random.default_rng(seed), Engine()
    loop, waiting = Loop(engine), [*rng.permutation(len(REQUESTS)), *rng.permutation(len(REQUESTS))]
    found, cancelled = [], []
    while waiting or len(loop):
        while waiting and rng.random() < 0.4:
            number = waiting.pop()
            (cancelled if rng.random() < 0.2 else found).append((number, engine.admit(loop, REQUESTS[number])))
        if cancelled and rng.random() < 0.5:
            loop.remove(cancelled.pop()[1])
        assert all(progress.error is None for progress in loop.step())
    assert not engine.held
    for number, request in found:
        assert request.search.generations() == REQUESTS[number].alone()


def test_inputs_that_are_done_cost_no_rows():
    for asked in REQUESTS:
        engine = Engine()
        loop = Loop(engine)
        request = engine.admit(loop, asked)
        run(loop)
        longest = [max(len(one.token_ids) for one in of_input) for of_input in request.search.generations()]
        assert engine.stepped == sorted(engine.stepped, reverse=True)
        assert engine.stepped[0] == asked.inputs * asked.rows_per_input
        if asked.options.num_beams == 1:
            running = [sum(length > step for length in longest) for step in range(max(longest))]
            assert engine.stepped == [asked.rows_per_input * inputs for inputs in running]


@pytest.mark.parametrize("selects", [False, True])
def test_engines_that_give_each_request_a_state_of_its_own(selects):
    """Whose number of rows stays: those that are gone are fed pad."""
    loop, found = Loop(OneAfterAnother()), []
    for asked in REQUESTS:
        state = Selecting(asked.state(), VOCABULARY) if selects else asked.state()
        rows = OwnState(state, TOKENS.pad_id)
        found.append((asked, loop.admit(asked.search(rows.selects), rows)))
        loop.step()
    run(loop)
    for asked, request in found:
        for ours, alone in zip(request.search.generations(), asked.alone(), strict=True):
            assert [one.token_ids for one in ours] == [one.token_ids for one in alone]
            scores = [[one.score for one in of_input] for of_input in (ours, alone)]
            np.testing.assert_allclose(*scores, rtol=1e-4)


def test_events_come_with_each_step_and_say_when_a_request_is_done():
    engine = Engine()
    loop = Loop(engine)
    request, ids = engine.admit(loop, REQUESTS[0]), [[] for _ in range(3)]
    while len(loop):
        (progress,) = loop.step()
        assert progress.request is request
        for event in progress.events:
            ids[event.input_index].append(event.token_id)
    assert progress.is_last
    assert [tuple(of_input) for of_input in ids] == [one.token_ids for (one,) in request.search.generations()]
    assert loop.step() == []


def test_what_is_wrong_with_one_request_does_not_stop_the_others():
    engine = Engine()
    loop = Loop(engine)
    nowhere, broken = Asked(2, max_new_tokens=4), Asked(1, max_new_tokens=4)
    nowhere.constraint = Nothing(inputs=2, forbidden=1)
    wrong, fine, not_finite = (engine.admit(loop, asked) for asked in (nowhere, REQUESTS[0], broken))
    not_finite.rows.step = lambda feed: np.full((1, VOCABULARY), np.nan, np.float32)
    first, second, third = loop.step()
    assert isinstance(first.error, OptionsError)
    assert isinstance(third.error, ParityError)
    assert (first.request, second.request, third.request) == (wrong, fine, not_finite)
    assert (first.is_last, second.is_last, third.is_last) == (True, False, True)
    run(loop)
    assert fine.search.generations() == REQUESTS[0].alone()
    assert not engine.held


def test_a_constraint_that_fails_before_the_step():
    class Failing(Nothing):
        def named(self, prefixes):
            raise ValueError("of a constraint")

    loop, asked = Loop(OneAfterAnother()), Asked(1, max_new_tokens=4)
    asked.constraint = Failing(inputs=1, forbidden=5)
    rows = OwnState(Selecting(asked.state(), VOCABULARY), TOKENS.pad_id)
    request = loop.admit(asked.search(rows.selects), rows)
    (progress,) = loop.step()
    assert progress.request is request
    assert str(progress.error) == "of a constraint"
    assert len(loop) == 0


def test_a_request_that_has_left_may_be_taken_out_again():
    engine = Engine()
    loop = Loop(engine)
    request = engine.admit(loop, REQUESTS[2])
    loop.remove(request)
    loop.remove(request)
    assert (len(loop), engine.held) == (0, [])

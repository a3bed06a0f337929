"""Many requests at the same time: each answer is that of the request alone, none waits for ever, no row is kept."""

import asyncio
import time
from dataclasses import replace

import numpy as np
import pytest
from asked import TEXTS, job, random_job

from pointsman import DeadlineError, DeviceError, OptionsError
from pointsman.backends.own_states import OwnStates
from pointsman.bundle import SOURCE_BLOCK, source_blocks
from pointsman.serving.admission import Admission
from pointsman.serving.jobs import DecodingJob, ScoringJob
from pointsman.serving.scheduler import Limits, Scheduler
from tolerances import SCORE

COUNT = 64
LONG = {"max_new_tokens": 300, "min_new_tokens": 300, "constrain": False}
OURS = Limits(rows=24, encoded=64)


async def asked(scheduler: Scheduler, given: DecodingJob, leaves_after: float | None, tight: bool):
    """What comes of a request; None where it is given up, or its deadline passes."""
    ticket = scheduler.submit(given, deadline=time.monotonic() + (0.02 if tight else 60))
    if leaves_after is not None:
        await asyncio.sleep(leaves_after)
        ticket.cancel()
    try:
        if given.is_streamed:
            steps = [events async for events in ticket.events()]
            generations = await ticket.answer()
            if given.options.num_beams == 1:
                assert sum(map(len, steps)) == sum(len(generation.token_ids) for generation in generations)
            return generations
        return await ticket.answer()
    except (DeadlineError, asyncio.CancelledError):
        return None


async def all_asked(scheduler: Scheduler, jobs, rng):
    tasks = []
    for given in jobs:
        leaves_after = float(rng.random() * 0.05) if rng.random() < 0.15 else None
        tasks.append(asyncio.create_task(asked(scheduler, given, leaves_after, tight=rng.random() < 0.1)))
        if rng.random() < 0.5:
            await asyncio.sleep(float(rng.random() * 0.02))
    return await asyncio.gather(*tasks)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 12))])
def test_answers_are_those_of_each_request_alone(infiller, seed):
    """To the last bit of each score."""
    rng, model = np.random.default_rng(seed), infiller.model
    jobs = [random_job(rng, infiller) for _ in range(COUNT)]

    async def mixed():
        async with Scheduler(model, OURS) as scheduler:
            found = await all_asked(scheduler, jobs, rng)
            ids, targets = infiller.targets(TEXTS[1], [["man"], ["good"]])
            await scheduler.submit(ScoringJob(ids=ids, targets=targets)).answer()
            return found, scheduler._worker._requests._encoding.bytes, len(scheduler._worker)

    found, held, left = asyncio.run(mixed())
    assert (held, left) == (0, 0)
    assert sum(answer is not None for answer in found) > COUNT // 2
    for given, answer in zip(jobs, found, strict=True):
        if answer is not None:
            fields = {"constraint": given.constraint, "first_input": given.number}
            assert [answer] == model.generate([given.ids], given.options, **fields)


class Rows:
    """Notes how many rows a step has."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.tokens = 0

    def waited(self, seconds): ...

    def encoded(self, tokens, seconds): ...

    def stepped(self, rows, tokens, seconds):
        self.rows.append(rows)
        self.tokens += tokens


def test_requests_share_steps_up_to_the_limit_and_one_that_is_wide_is_not_overtaken(infiller):
    noted, order = Rows(), []

    async def one(scheduler, name, **fields):
        answer = await scheduler.submit(job(infiller, **fields)).answer()
        order.append(name)
        return sum(len(generation.token_ids) for generation in answer)

    async def run():
        async with Scheduler(infiller.model, Limits(rows=6), noted) as scheduler:
            first = [asyncio.create_task(one(scheduler, "first", **LONG)) for _ in range(4)]
            await asyncio.sleep(0.01)
            wide = asyncio.create_task(one(scheduler, "wide", num_beams=5, num_return_sequences=5, constrain=False))
            await asyncio.sleep(0)
            late = [asyncio.create_task(one(scheduler, "late")) for _ in range(3)]
            return sum(await asyncio.gather(*first, wide, *late))

    tokens = asyncio.run(run())
    assert max(noted.rows) <= 6
    assert noted.rows.count(4) > 100
    assert order[:4] == ["first"] * 4
    assert noted.tokens == tokens


def test_a_client_that_goes_away_frees_its_rows_before_the_next_step(infiller):
    noted = Rows()

    async def run():
        async with Scheduler(infiller.model, observer=noted) as scheduler:
            stays, goes = (scheduler.submit(job(infiller, **LONG, is_streamed=True)) for _ in range(2))
            await anext(goes.events())
            goes.cancel()
            await stays.answer()

    asyncio.run(run())
    assert noted.rows.count(2) < 100
    assert noted.rows.count(1) > 200


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(rows=2), "3 beams or samples are too many; this service gives 2 to a request at most"),
        (Limits(bytes=1 << 10), "3 beams or samples of 32 tokens take more memory than this service gives"),
    ],
)
def test_what_could_never_be_decoded_is_refused(infiller, limits, message):
    with pytest.raises(OptionsError, match=message):
        Scheduler(infiller.model, limits).submit(job(infiller, num_beams=3))


def test_who_joins(infiller):
    architecture = infiller.model.manifest.architecture
    token = 2 * architecture.decoder.layers * architecture.num_heads * architecture.d_kv * 4
    small = job(infiller, TEXTS[1], max_new_tokens=8)
    tokens, wide = len(small.ids), replace(small, options=replace(small.options, num_beams=5))
    for limits, line, running, joins in [
        (Limits(), [small] * 3, [], 3),
        (Limits(rows=4), [small] * 3, [small] * 2, 2),
        (Limits(rows=6), [wide, small], [small] * 2, 0),
        (Limits(rows=6), [small, wide, small], [], 2),
        (Limits(encoded=2 * tokens), [small] * 5, [], 2),
        (Limits(encoded=1), [small] * 5, [], 1),
        (Limits(bytes=3 * (8 + SOURCE_BLOCK) * token), [small] * 5, [small], 2),
        (Limits(apart=1), [small] * 3, [], 3),
        (Limits(), [], [small], 0),
    ]:
        admission = Admission(limits, architecture, shares_steps=True, pads_inputs=False)
        assert admission.joining(line, running) == joins


def test_a_long_text_takes_room_for_itself_alone_where_inputs_are_not_padded(infiller):
    architecture = infiller.model.manifest.architecture
    small = job(infiller, TEXTS[1], max_new_tokens=8)
    long, blocks = replace(small, ids=small.ids * 40), 2 + source_blocks(40 * len(small.ids))
    limits = Limits(bytes=(3 * 8 + blocks * SOURCE_BLOCK) * architecture.token_bytes)
    for pads_inputs, joins in ((False, 2), (True, 0)):
        admission = Admission(limits, architecture, shares_steps=True, pads_inputs=pads_inputs)
        assert admission.joining([small] * 3, [long]) == joins


def test_who_joins_where_each_has_a_step_of_its_own(infiller):
    given, limits = job(infiller), Limits(apart=3)
    admission = Admission(limits, infiller.model.manifest.architecture, shares_steps=False, pads_inputs=True)
    assert admission.joining([given] * 5, [given]) == 2


def test_an_engine_that_gives_each_request_a_step_of_its_own(infiller, monkeypatch):
    """No more at the same time than it has memory for; each finds what it finds alone."""
    backend, noted = infiller.model.backend, Rows()
    monkeypatch.setattr(backend, "stepper", lambda **_: OwnStates(backend))
    jobs = [job(infiller, text, **fields) for text in TEXTS for fields in ({}, {"num_beams": 2}, {"constrain": False})]

    async def run():
        async with Scheduler(infiller.model, Limits(apart=2), noted) as scheduler:
            return await asyncio.gather(*(ticket.answer() for ticket in scheduler.submit_all(jobs)))

    for given, (best, *_) in zip(jobs, asyncio.run(run()), strict=True):
        ((alone, *_),) = infiller.model.generate([given.ids], given.options, constraint=given.constraint)
        assert best.token_ids == alone.token_ids
        SCORE.check(best.score, alone.score)
    assert max(noted.rows) <= 4


class Failing:
    """An engine that fails once."""

    def __init__(self, do, error):
        self.do, self.left = do, [error]

    def __call__(self, *given):
        if self.left:
            raise self.left.pop()
        return self.do(*given)


@pytest.mark.parametrize("what", ["step", "encode"])
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("of an engine")])
def test_an_engine_that_fails_ends_what_it_was_doing_and_no_more(infiller, monkeypatch, what, error):
    async def run():
        scheduler = Scheduler(infiller.model)
        stepper = scheduler._worker._requests._encoding
        monkeypatch.setattr(stepper, what, Failing(getattr(stepper, what), error))
        async with scheduler:
            first = scheduler.submit_all([job(infiller), job(infiller)])
            done = await asyncio.gather(*(ticket.answer() for ticket in first), return_exceptions=True)
            return done, await scheduler.submit(job(infiller)).answer()

    done, answer = asyncio.run(run())
    wrong = [each for each in done if isinstance(each, Exception)]
    assert all(isinstance(each, DeviceError if isinstance(error, MemoryError) else RuntimeError) for each in wrong)
    assert len(wrong) == (2 if what == "step" else 0)
    assert all(each == answer for each in done if each not in wrong)

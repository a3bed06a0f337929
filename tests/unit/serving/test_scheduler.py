"""The scheduler: answers are those of the request alone, and every request ends once, however it ends."""

import asyncio
import time

import pytest
from asked import TEXT, job

from pointsman import BusyError, DeadlineError, OptionsError, UnavailableError
from pointsman.serving.jobs import ScoringJob
from pointsman.serving.scheduler import Limits, Scheduler

LONG = {"max_new_tokens": 400, "min_new_tokens": 400, "constrain": False}

DECODING = {
    "greedy": {},
    "unconstrained": {"constrain": False, "max_new_tokens": 12},
    "beams": {"num_beams": 3, "num_return_sequences": 3},
    "samples": {"do_sample": True, "seed": 5, "num_return_sequences": 3, "top_k": 0},
}


@pytest.mark.parametrize("kind", DECODING)
def test_answers_are_those_of_the_library(infiller, kind):
    async def answers():
        async with Scheduler(infiller.model) as scheduler:
            ticket = scheduler.submit(job(infiller, **DECODING[kind]))
            return infiller.fills(infiller.request(TEXT, **DECODING[kind]), await ticket.answer())

    assert asyncio.run(answers()) == infiller.infill(TEXT, **DECODING[kind])


def test_texts_that_came_together_are_sampled_as_in_a_batch(infiller):
    fields, texts = {"do_sample": True, "seed": 3}, [TEXT, TEXT, "A <extra_id_0> day."]

    async def answers():
        async with Scheduler(infiller.model) as scheduler:
            jobs = [job(infiller, text, number=number, **fields) for number, text in enumerate(texts)]
            tickets = scheduler.submit_all(jobs)
            return [
                infiller.fills(infiller.request(text, **fields), await ticket.answer())
                for text, ticket in zip(texts, tickets, strict=True)
            ]

    assert asyncio.run(answers()) == infiller.infill_batch(texts, **fields)


@pytest.mark.parametrize("kind", ["greedy", "unconstrained", "samples"])
def test_streams_give_the_answers_tokens(infiller, kind):
    async def streamed():
        async with Scheduler(infiller.model) as scheduler:
            ticket = scheduler.submit(job(infiller, is_streamed=True, **DECODING[kind]))
            events = [event async for step in ticket.events() for event in step]
            return events, await ticket.answer()

    events, generations = asyncio.run(streamed())
    for number, generation in enumerate(generations):
        own = [event for event in events if event.return_index == number]
        assert tuple(event.token_id for event in own) == generation.token_ids
        assert tuple(event.logprob for event in own) == generation.token_logprobs
        assert [event.finish_reason for event in own][-1] == generation.finish_reason


def test_scores_are_those_of_the_library(infiller):
    candidates = [["box", "a"], ["dog", "the"]]
    ids, targets = infiller.targets(TEXT, candidates)

    async def scores():
        async with Scheduler(infiller.model) as scheduler:
            return await scheduler.submit(ScoringJob(ids=ids, targets=targets)).answer()

    assert [float(one.sum()) for one in asyncio.run(scores())] == infiller.score(TEXT, candidates)


def test_a_full_line_refuses_and_says_when_to_come_back(infiller):
    async def refused():
        async with Scheduler(infiller.model, Limits(waiting=2, rows=1)) as scheduler:
            running = scheduler.submit(job(infiller, **LONG, is_streamed=True))
            await anext(running.events())
            waiting = scheduler.submit(job(infiller))
            with pytest.raises(BusyError, match="as many texts wait as may; ask again later") as error:
                scheduler.submit_all([job(infiller), job(infiller)])
            assert error.value.retry_after >= 1
            assert scheduler.waiting == 1
            running.cancel()
            return await waiting.answer()

    assert len(asyncio.run(refused())) == 1


def test_a_deadline_ends_a_request_that_runs_and_one_that_waits(infiller):
    async def late():
        async with Scheduler(infiller.model) as scheduler:
            tickets = [scheduler.submit(job(infiller, **LONG), deadline=time.monotonic() + 0.02) for _ in range(2)]
            for ticket in tickets:
                with pytest.raises(DeadlineError, match=r"the answer was not there after 0.0.* s; ask for less, or"):
                    await ticket.answer()
                assert ticket.is_over
            return await scheduler.submit(job(infiller)).answer()

    assert len(asyncio.run(late())) == 1


def test_cancelling_ends_the_work(infiller):
    async def cancelled():
        async with Scheduler(infiller.model) as scheduler:
            ticket = scheduler.submit(job(infiller, **LONG, is_streamed=True))
            await anext(ticket.events())
            ticket.cancel()
            began = time.monotonic()
            await scheduler.submit(job(infiller)).answer()
            with pytest.raises(asyncio.CancelledError):
                await ticket.answer()
            return time.monotonic() - began

    assert asyncio.run(cancelled()) < 1


def test_a_request_that_fails_does_not_end_the_others(infiller):
    async def failed():
        async with Scheduler(infiller.model) as scheduler:
            bad, good = scheduler.submit_all([ScoringJob(ids=[], targets=[[1]]), job(infiller)])
            with pytest.raises(ValueError, match="input 0 has no tokens"):
                await bad.answer()
            return await good.answer()

    assert len(asyncio.run(failed())) == 1


def test_draining_answers_what_was_taken_and_takes_no_more(infiller):
    async def drained():
        async with Scheduler(infiller.model) as scheduler:
            tickets = scheduler.submit_all([job(infiller), job(infiller)])
            assert await scheduler.drain(10)
            assert not scheduler.is_alive
            with pytest.raises(UnavailableError, match="it is starting or stopping"):
                scheduler.submit(job(infiller))
            return [await ticket.answer() for ticket in tickets]

    first, second = asyncio.run(drained())
    assert first == second


def test_what_is_not_drained_in_time_fails(infiller):
    async def drained():
        async with Scheduler(infiller.model) as scheduler:
            tickets = scheduler.submit_all([job(infiller, **LONG) for _ in range(2)])
            assert not await scheduler.drain(0.02)
            for ticket in tickets:
                with pytest.raises(UnavailableError, match="the service stopped before it had answered"):
                    await ticket.answer()

    asyncio.run(drained())


def test_more_rows_than_a_request_may_take(infiller):
    scheduler = Scheduler(infiller.model, Limits(rows=2))
    with pytest.raises(OptionsError, match="3 beams or samples are too many; this service gives 2 to a request at"):
        scheduler.submit(job(infiller, num_beams=3))


def test_a_scheduler_that_never_started_drains(infiller):
    assert asyncio.run(Scheduler(infiller.model).drain())


def test_one_that_was_drained_does_not_start(infiller):
    scheduler = Scheduler(infiller.model)
    assert asyncio.run(scheduler.drain())
    with pytest.raises(UnavailableError, match="it is starting or stopping"):
        scheduler.start()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_that_nobody_foresaw_ends_all_that_wait(infiller, monkeypatch):
    """It is not left open, to take what it will never answer."""

    async def broken():
        scheduler = Scheduler(infiller.model)
        monkeypatch.setattr(scheduler._worker, "drop", lambda: 1 // 0)
        scheduler.start()
        ticket = scheduler.submit(job(infiller))
        with pytest.raises(UnavailableError, match="the service stopped before it had answered"):
            await asyncio.wait_for(ticket.answer(), 30)
        assert not scheduler.is_alive
        with pytest.raises(UnavailableError, match="it is starting or stopping"):
            scheduler.submit(job(infiller))
        scheduler._thread.join()

    asyncio.run(broken())


def test_more_requests_than_may_wait(infiller):
    async def asked():
        async with Scheduler(infiller.model, Limits(waiting=2)) as scheduler:
            with pytest.raises(OptionsError, match="this takes 3 places in line, and there are 2; ask for fewer"):
                scheduler.submit_all([job(infiller)] * 3)

    asyncio.run(asked())

"""One thread that owns a model, and the requests that wait for it.

Requests come from an event loop (`submit`), wait in line, and are answered by the thread through their tickets. The
thread sees that a ticket is over (its client gave up, or its deadline passed) between two steps, and drops it.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self, overload

from pointsman.decoding import DecodingOptions, Generation, TokenEvent
from pointsman.decoding.generation import length_normalized
from pointsman.errors import BusyError, OptionsError, UnavailableError
from pointsman.model import SwitchModel
from pointsman.serving.jobs import DecodingJob, Job, ScoringJob
from pointsman.serving.ticket import Ticket

_FIRST_GUESS: Final = 0.5  # seconds that a request takes, before one has been answered
_WEIGHT_OF_LAST: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a scheduler takes on.

    Attributes:
        waiting: Most requests that wait in line.
        rows: Most rows of the decoder that one request may take.
    """

    waiting: int = 256
    rows: int = 64


class Observer(Protocol):
    """Is told what a scheduler does, in the scheduler's thread; must return quickly and never raise."""

    def waited(self, seconds: float) -> None:
        """A request begins that has waited so long."""
        ...

    def encoded(self, tokens: int, seconds: float) -> None:
        """Inputs of so many tokens have been encoded."""
        ...

    def stepped(self, rows: int, tokens: int, seconds: float) -> None:
        """A decoding step of so many rows gave so many tokens (of sequences that still run)."""
        ...


class _Nobody:
    """The observer where none is given."""

    def waited(self, seconds: float) -> None: ...

    def encoded(self, tokens: int, seconds: float) -> None: ...

    def stepped(self, rows: int, tokens: int, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class _Entry:
    job: Job
    ticket: Ticket[Any]


class Scheduler:
    """Answers requests over one model: first come, first served.

    `async with Scheduler(model) as scheduler:` starts the thread, and drains at the end. Every answer is that of the
    request alone, whatever else is asked.
    """

    def __init__(self, model: SwitchModel, limits: Limits | None = None, observer: Observer | None = None) -> None:
        """Prepare; nothing runs until `start`.

        Args:
            model: Nobody else may use it while the scheduler runs.
            limits: What to take on.
            observer: Is told what happens.
        """
        self._model, self.limits = model, limits or Limits()
        self._observer: Observer = observer or _Nobody()
        self._line: deque[_Entry] = deque()
        self._changed = threading.Condition()
        self._running: _Entry | None = None
        self._is_open = False
        self._is_stopping = False
        self._seconds_each = _FIRST_GUESS
        self._thread = threading.Thread(target=self._work, name="pointsman-scheduler", daemon=True)

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.drain()

    def start(self) -> None:
        """Begin to take requests."""
        self._is_open = True
        self._thread.start()

    @overload
    def submit(self, job: DecodingJob, *, deadline: float | None = None) -> Ticket[list[Generation]]: ...

    @overload
    def submit(self, job: ScoringJob, *, deadline: float | None = None) -> Ticket[list[float]]: ...

    def submit(self, job: Job, *, deadline: float | None = None) -> Ticket[Any]:
        """Take a request; to be called in the event loop that will read its ticket.

        Args:
            job: What to do.
            deadline: When the answer must be there, in seconds of `time.monotonic`.

        Raises:
            BusyError: As many wait as may.
            UnavailableError: The scheduler has not been started, or is stopping.
            OptionsError: The request takes more rows than any may.
        """
        (ticket,) = self.submit_all([job], deadline=deadline)
        return ticket

    def submit_all(self, jobs: Sequence[Job], *, deadline: float | None = None) -> list[Ticket[Any]]:
        """Take several requests, or none of them; otherwise as `submit`."""
        for job in jobs:
            self._check_rows(job)
        with self._changed:
            if not self._is_open:
                raise UnavailableError("the service takes no requests now: it is starting or stopping; ask again later")
            if len(self._line) + len(jobs) > self.limits.waiting:
                raise BusyError("as many requests wait as may; ask again later", self._retry_after())
            entries = [_Entry(job, Ticket(deadline)) for job in jobs]
            self._line.extend(entries)
            self._changed.notify()
        return [entry.ticket for entry in entries]

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._line)

    @property
    def is_alive(self) -> bool:
        """Whether requests are taken and answered."""
        return self._is_open and self._thread.is_alive()

    async def drain(self, timeout: float | None = None) -> bool:
        """Take no more requests, answer those that were taken, and stop.

        Args:
            timeout: Seconds after which what is not answered fails with `UnavailableError`; never, where None.

        Returns:
            Whether all were answered in time.
        """
        with self._changed:
            self._is_open, self._is_stopping = False, True
            self._changed.notify()
        if not self._thread.ident:
            return True
        until = None if timeout is None else time.monotonic() + timeout
        while self._thread.is_alive() and (until is None or time.monotonic() < until):
            await asyncio.sleep(0.005)
        return not self._give_up()

    def _give_up(self) -> bool:
        """Fail all that is not answered; whether there was any."""
        with self._changed:
            left = [*self._line, *([self._running] if self._running else [])]
            self._line.clear()
        for entry in left:
            entry.ticket.fail(UnavailableError("the service stopped before it had answered; ask again later"))
        return bool(left)

    def _check_rows(self, job: Job) -> None:
        if isinstance(job, DecodingJob) and job.rows > self.limits.rows:
            raise OptionsError(
                f"{job.rows} beams or samples are too many; this service gives {self.limits.rows} to a request at most"
            )

    def _retry_after(self) -> float:
        return max(1.0, len(self._line) * self._seconds_each)

    # In the thread.

    def _work(self) -> None:
        while (entry := self._next()) is not None:
            began = time.monotonic()
            self._observer.waited(began - entry.ticket.made_at)
            try:
                self._answer(entry)
            except Exception as error:  # noqa: BLE001 - a request that fails must not end the others
                entry.ticket.fail(error)
            self._running = None
            self._seconds_each += _WEIGHT_OF_LAST * (time.monotonic() - began - self._seconds_each)

    def _next(self) -> _Entry | None:
        """The next request that somebody still waits for; None when it is time to stop."""
        with self._changed:
            while True:
                while self._line:
                    entry = self._line.popleft()
                    if not entry.ticket.is_over:
                        self._running = entry
                        return entry
                if self._is_stopping:
                    return None
                self._changed.wait()

    def _answer(self, entry: _Entry) -> None:
        job, ticket = entry.job, entry.ticket
        if isinstance(job, ScoringJob):
            logprobs = self._model.score([job.ids], job.targets)
            ticket.finish([float(of_target.sum()) for of_target in logprobs])
        elif job.options.num_beams > 1 or job.number:  # only the first input of a request can be decoded step by step
            (generations,) = self._model.generate_unchecked(
                [job.ids], job.options, constraint=job.constraint, first_input=job.number
            )
            ticket.finish(generations)
        else:
            self._decode(job, ticket)

    def _decode(self, job: DecodingJob, ticket: Ticket[list[Generation]]) -> None:
        """Decode step by step, so that a ticket that is over ends the work."""
        began = time.monotonic()
        steps = self._model.stream_unchecked([job.ids], job.options, constraint=job.constraint)
        self._observer.encoded(len(job.ids), time.monotonic() - began)
        sequences: list[list[TokenEvent]] = [[] for _ in range(job.rows)]
        began = time.monotonic()
        for events in steps:
            now = time.monotonic()
            self._observer.stepped(job.rows, len(events), now - began)
            began = now
            if ticket.is_over:
                return
            for event in events:
                sequences[event.return_index].append(event)
            if job.is_streamed:
                ticket.emit(events)
        ticket.finish([_generation(sequence, job.options) for sequence in sequences])


def _generation(events: Sequence[TokenEvent], options: DecodingOptions) -> Generation:
    """What a sequence's tokens come to."""
    logprobs = tuple(event.logprob for event in events)
    return Generation(
        token_ids=tuple(event.token_id for event in events),
        score=length_normalized(sum(logprobs), len(events), options.length_penalty),
        finish_reason=events[-1].finish_reason or "length",
        token_logprobs=logprobs,
    )

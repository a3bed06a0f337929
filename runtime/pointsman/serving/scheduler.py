"""One thread that owns a model, and the requests that wait for it.

Requests come from an event loop (`submit`), wait in line, and are answered by the thread through their tickets. They
join those that are decoded between two steps, and leave when they are done. The thread sees there, too, that a ticket
is over (its client gave up, or its deadline passed), and drops it.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, Final, Self, overload

from pointsman.decoding import Generation
from pointsman.errors import BusyError, OptionsError, UnavailableError
from pointsman.model import SwitchModel
from pointsman.serving.admission import Admission, Limits
from pointsman.serving.jobs import DecodingJob, Job, Scores, ScoringJob
from pointsman.serving.ticket import Ticket
from pointsman.serving.worker import Entry, Observer, Worker

_FIRST_GUESS: Final = 0.5  # seconds between two answers, before there have been any
_WEIGHT_OF_LAST: Final = 0.1
_CLOSED: Final = "the service takes no requests now: it is starting or stopping; ask again later"

__all__ = ["Limits", "Observer", "Scheduler"]


class _Nobody:
    """The observer where none is given."""

    def waited(self, seconds: float) -> None: ...

    def encoded(self, tokens: int, seconds: float) -> None: ...

    def stepped(self, rows: int, tokens: int, seconds: float) -> None: ...


class Scheduler:
    """Answers requests over one model: first come, first served, and as many at the same time as there is room for.

    `async with Scheduler(model) as scheduler:` starts the thread, and drains at the end. Every answer is that of the
    request alone, whatever else is asked.

    Attributes:
        limits: What it takes on.
        unanswered: Requests that it gave up when it was stopped.
    """

    def __init__(self, model: SwitchModel, limits: Limits | None = None, observer: Observer | None = None) -> None:
        """Prepare; nothing runs until `start`.

        Args:
            model: Nobody else may use it while the scheduler runs.
            limits: What to take on.
            observer: Is told what happens.
        """
        self.limits = limits or Limits()
        self._worker = Worker(model, observer or _Nobody())
        self._admission = Admission(
            self.limits,
            model.manifest.architecture,
            shares_steps=self._worker.shares_steps,
            pads_inputs=self._worker.pads_inputs,
        )
        self._line: deque[Entry[Any]] = deque()
        self._in_hand: list[Entry[Any]] = []  # taken from the line, and not yet decoded
        self._changed = threading.Condition()
        self._is_open = False
        self._is_stopping = False
        self._seconds_each = _FIRST_GUESS
        self._answered_at = 0.0
        self.unanswered = 0
        self._thread = threading.Thread(target=self._work, name="pointsman-scheduler", daemon=True)

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.drain()

    def start(self) -> None:
        """Begin to take requests.

        Raises:
            UnavailableError: It has been drained.
        """
        with self._changed:
            if self._is_stopping:
                raise UnavailableError(_CLOSED)
            self._is_open = True
        self._thread.start()

    @overload
    def submit(self, job: DecodingJob, *, deadline: float | None = None) -> Ticket[list[Generation]]: ...

    @overload
    def submit(self, job: ScoringJob, *, deadline: float | None = None) -> Ticket[Scores]: ...

    def submit(self, job: Job, *, deadline: float | None = None) -> Ticket[Any]:
        """Take a request; to be called in the event loop that will read its ticket.

        Args:
            job: What to do.
            deadline: When the answer must be there, in seconds of `time.monotonic`.

        Raises:
            BusyError: As many wait as may.
            UnavailableError: The scheduler has not been started, or is stopping.
            OptionsError: The request takes more rows, memory, or places in line than any may.
        """
        (ticket,) = self.submit_all([job], deadline=deadline)
        return ticket

    def submit_all(self, jobs: Sequence[Job], *, deadline: float | None = None) -> list[Ticket[Any]]:
        """Take several requests, or none of them; otherwise as `submit`."""
        if len(jobs) > self.limits.waiting:
            raise OptionsError(
                f"this takes {len(jobs)} places in line, and there are {self.limits.waiting}; ask for fewer texts or "
                "candidates"
            )
        for job in jobs:
            if isinstance(job, DecodingJob):
                self._admission.check(job)
        with self._changed:
            if not self.is_alive:
                raise UnavailableError(_CLOSED)
            if len(self._line) + len(jobs) > self.limits.waiting:
                raise BusyError("as many texts wait as may; ask again later", self._retry_after())
            entries: list[Entry[Any]] = [Entry(job, Ticket(deadline)) for job in jobs]
            self._line.extend(entries)
            self._changed.notify()
        return [entry.ticket for entry in entries]

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._line)

    @property
    def running(self) -> int:
        """How many requests are worked on, as it was a moment ago."""
        return len(self._begun())

    def _begun(self) -> list[Entry[Any]]:
        """Requests that have left the line and are neither answered nor given up."""
        begun = {id(entry): entry for entry in (*self._in_hand, *self._worker.entries)}
        return [entry for entry in begun.values() if not entry.ticket.is_over]

    @property
    def cache_bytes(self) -> int:
        """Host memory held for what is encoded and cached, as it was a moment ago."""
        return self._worker.bytes

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
            left = [*(entry for entry in self._line if not entry.ticket.is_over), *self._begun()]
            self._line.clear()
        self.unanswered += len(left)
        for entry in left:
            entry.ticket.fail(UnavailableError("the service stopped before it had answered; ask again later"))
        return bool(left)

    def _retry_after(self) -> float:
        return max(1.0, len(self._line) * self._seconds_each)

    # In the thread.

    def _work(self) -> None:
        try:
            while self._wait():
                self._worker.drop()
                answered = self._take(self._next())
                self._in_hand = []
                self._count(answered + self._worker.step())
        finally:
            self._is_open = False
            self._give_up()  # whom something that nobody foresaw has left waiting

    def _wait(self) -> bool:
        """Wait until there is something to do; whether there is, or it is time to stop."""
        if len(self._worker):
            return True
        with self._changed:
            while not (self._line or len(self._worker) or self._is_stopping):
                self._changed.wait()
                self._answered_at = time.monotonic()
            return bool(self._line or len(self._worker))

    def _next(self) -> list[Entry[Any]]:
        """Who is next in line: some to be decoded, or one to be scored; nobody where there is no room."""
        if not self._line:
            return []  # who comes now is seen before the next step
        running = [entry.job for entry in self._worker.entries]
        with self._changed:
            self._line = deque(entry for entry in self._line if not entry.ticket.is_over)
            decoding = [*takewhile(lambda job: isinstance(job, DecodingJob), (entry.job for entry in self._line))]
            count = self._admission.joining(decoding, running) if decoding else min(1, len(self._line))
            self._in_hand = [self._line.popleft() for _ in range(count)]
            return self._in_hand

    def _take(self, entries: Sequence[Entry[Any]]) -> int:
        """Begin with some; how many have been answered at once."""
        if not entries:
            return 0
        if isinstance(entries[0].job, ScoringJob):
            self._worker.score(entries[0])
            return 1
        self._worker.join(entries)
        return 0

    def _count(self, answered: int) -> None:
        """Learn how many seconds lie between two answers."""
        if answered:
            now = time.monotonic()
            each = (now - self._answered_at) / answered
            self._answered_at = now
            self._seconds_each += _WEIGHT_OF_LAST * (each - self._seconds_each)

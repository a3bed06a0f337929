"""The loop under all decoding: requests of any options share a step, and come and go between steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

from pointsman.decoding.generation import TokenEvent
from pointsman.decoding.search import Search
from pointsman.decoding.step import Answer, AnyRows, Feed, Stepper


@dataclass(frozen=True, slots=True, eq=False)
class Running(Generic[AnyRows]):
    """A request in the loop: how it searches, and its rows."""

    search: Search
    rows: AnyRows


@dataclass(frozen=True, slots=True)
class Progress(Generic[AnyRows]):
    """What a step has brought to a request.

    Attributes:
        request: Which.
        events: Its tokens; see `Search.advance`.
        error: Why it goes no further; None where all is well.
    """

    request: Running[AnyRows]
    events: tuple[TokenEvent, ...] = ()
    error: Exception | None = None

    @property
    def is_last(self) -> bool:
        """Whether the request has left the loop: it is done, or has failed."""
        return self.error is not None or self.request.search.done


class Loop(Generic[AnyRows]):
    """Requests that are decoded together. What comes of each does not depend on the others.

    Between two steps, requests may be put in and taken out. One thread at a time may use a loop.
    """

    def __init__(self, stepper: Stepper[AnyRows]) -> None:
        self._stepper = stepper
        self._running: dict[int, Running[AnyRows]] = {}  # by identity, in the order in which they came

    def __len__(self) -> int:
        """How many requests are running."""
        return len(self._running)

    def admit(self, search: Search, rows: AnyRows) -> Running[AnyRows]:
        """Put in a request.

        Args:
            search: At its beginning.
            rows: Those of its inputs, without steps so far.
        """
        request = Running(search, rows)
        self._running[id(request)] = request
        return request

    def remove(self, request: Running[AnyRows]) -> None:
        """Take out a request; its rows are given back. Nothing happens where it has left by itself."""
        if self._running.pop(id(request), None) is not None:
            self._stepper.release(request.rows)

    def step(self) -> list[Progress[AnyRows]]:
        """Extend all requests by one token.

        A request that is done or has failed has left the loop when this returns; the others go on.

        Returns:
            What it brought to each, in the order in which they came; nothing where none is running.
        """
        failed: list[Progress[AnyRows]] = []
        fed: list[tuple[Running[AnyRows], Feed]] = []
        for request in [*self._running.values()]:
            try:
                fed.append((request, request.search.feed()))
            except Exception as error:  # noqa: BLE001 - what is wrong with one request is not the others' concern
                self.remove(request)
                failed.append(Progress(request, error=error))
        if not fed:
            return failed
        answers = self._stepper.step([(request.rows, feed) for request, feed in fed])
        return failed + self._advanced([request for request, _ in fed], answers)

    def _advanced(self, requests: Sequence[Running[AnyRows]], answers: Sequence[Answer]) -> list[Progress[AnyRows]]:
        progress = [_advance(request, answer) for request, answer in zip(requests, answers, strict=True)]
        for each in progress:
            if each.is_last:
                self.remove(each.request)
        return progress


def _advance(request: Running[AnyRows], answer: Answer) -> Progress[AnyRows]:
    try:
        return Progress(request, request.search.advance(answer))
    except Exception as error:  # noqa: BLE001 - as above
        return Progress(request, error=error)

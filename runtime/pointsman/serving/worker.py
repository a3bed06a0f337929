"""The requests that are decoded together: they join, are stepped, and are answered through their tickets."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from pointsman.decoding import Progress, Running
from pointsman.model import SwitchModel
from pointsman.running import Request, enough_memory
from pointsman.serving.jobs import DecodingJob, Job, ScoringJob
from pointsman.serving.ticket import Ticket

AnyJob = TypeVar("AnyJob", bound=Job, covariant=True)


class Observer(Protocol):
    """Is told what a scheduler does, in the scheduler's thread; must return quickly and never raise."""

    def waited(self, seconds: float) -> None:
        """A request begins that has waited so long."""
        ...

    def encoded(self, tokens: int, seconds: float) -> None:
        """Inputs of so many tokens have been encoded."""
        ...

    def stepped(self, rows: int, tokens: int, seconds: float) -> None:
        """A decoding step of so many rows gave so many tokens; those of beams come with the last."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Entry(Generic[AnyJob]):
    """A request that was taken."""

    job: AnyJob
    ticket: Ticket[Any]


class Worker:
    """Does the work, in one thread; what goes wrong with a request ends that one alone."""

    def __init__(self, model: SwitchModel, observer: Observer) -> None:
        self._model, self._observer = model, observer
        self._requests = model.running()
        self._inside: dict[int, tuple[Running[Any], Entry[DecodingJob]]] = {}

    def __len__(self) -> int:
        """How many requests are decoded."""
        return len(self._inside)

    @property
    def entries(self) -> list[Entry[DecodingJob]]:
        """Those that are decoded, in the order in which they came."""
        return [entry for _, entry in [*self._inside.values()]]

    @property
    def bytes(self) -> int:
        """See `RunningRequests.bytes`."""
        return self._requests.bytes

    @property
    def shares_steps(self) -> bool:
        """See `RunningRequests.share_steps`."""
        return self._requests.share_steps

    @property
    def pads_inputs(self) -> bool:
        """See `RunningRequests.pads_inputs`."""
        return self._requests.pads_inputs

    def drop(self) -> None:
        """Take out those that nobody waits for any more: their rows are given back."""
        for running, entry in [*self._inside.values()]:
            if entry.ticket.is_over:
                self._leave(running)

    def score(self, entry: Entry[ScoringJob]) -> None:
        """Answer a request for scores, at once."""
        self._observer.waited(time.monotonic() - entry.ticket.made_at)
        try:
            logprobs = self._model.score([entry.job.ids], entry.job.targets)
        except Exception as error:  # noqa: BLE001 - a request that fails must not end the others
            entry.ticket.fail(error)
        else:
            entry.ticket.finish(logprobs)

    def join(self, entries: Sequence[Entry[DecodingJob]]) -> None:
        """Encode the inputs of requests together; they are decoded from the next step on."""
        began = time.monotonic()
        for entry in entries:
            self._observer.waited(began - entry.ticket.made_at)
        self._join(entries)
        self._observer.encoded(sum(len(entry.job.ids) for entry in entries), time.monotonic() - began)

    def _join(self, entries: Sequence[Entry[DecodingJob]]) -> None:
        try:
            with enough_memory():
                joined = self._requests.join([_request(entry.job) for entry in entries])
        except Exception as error:  # noqa: BLE001 - as above
            self._join_each(entries, error)
        else:
            self._inside |= {id(running): (running, entry) for running, entry in zip(joined, entries, strict=True)}

    def _join_each(self, entries: Sequence[Entry[DecodingJob]], error: Exception) -> None:
        """What could not be encoded together may be one by one."""
        if len(entries) == 1:
            entries[0].ticket.fail(error)
            return
        for entry in entries:
            self._join([entry])

    def step(self) -> int:
        """Extend all by one token, and answer those that are done; how many have left."""
        if not self._inside:
            return 0
        began, rows = time.monotonic(), sum(entry.job.rows for entry in self.entries)
        try:
            with enough_memory():
                progress = self._requests.step()
        except Exception as error:  # noqa: BLE001 - the engine failed, and with it all that it was doing
            return self._begin_anew(error)
        tokens = sum(self._told(each) for each in progress)
        self._observer.stepped(rows, tokens, time.monotonic() - began)
        return sum(each.is_last for each in progress)

    def _told(self, progress: Progress[Any]) -> int:
        """Tell a request's ticket what a step has brought; how many tokens."""
        _, entry = self._inside[id(progress.request)]
        tokens = len(progress.events)
        if progress.error is not None:
            entry.ticket.fail(progress.error)
        elif progress.events and entry.job.is_streamed:
            entry.ticket.emit(progress.events)
        if progress.is_last:
            del self._inside[id(progress.request)]
        if progress.is_last and progress.error is None:
            (generations,) = progress.request.search.generations()
            entry.ticket.finish(generations)
            tokens = tokens or sum(len(generation.token_ids) for generation in generations)
        return tokens

    def _leave(self, running: Running[Any]) -> None:
        del self._inside[id(running)]
        self._requests.remove(running)

    def _begin_anew(self, error: Exception) -> int:
        """Fail all, in memory that may hold anything now."""
        failed = self.entries
        self._inside.clear()
        self._requests = self._model.running()
        for entry in failed:
            entry.ticket.fail(error)
        return len(failed)


def _request(job: DecodingJob) -> Request:
    return Request([job.ids], job.options, job.constraint, first_input=job.number)

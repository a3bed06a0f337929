"""A bundle behind a scheduler: texts in, fills and growing spans out."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from pointsman.backends.base import Routing
from pointsman.decoding import DecodingFields, DecodingOptions, Generation, TokenEvent
from pointsman.errors import DeadlineError, OptionsError, TextError
from pointsman.infill import Fill, Infiller, Span
from pointsman.infill.requests import Request
from pointsman.serving.jobs import DecodingJob, ScoringJob
from pointsman.serving.limits import ServiceLimits
from pointsman.serving.scheduler import Scheduler
from pointsman.serving.ticket import Ticket

_WARM_UP: Final = "A <extra_id_0> is warm."
_PLAIN: Final = cast("DecodingFields", asdict(DecodingOptions()))  # whatever the checkpoint's own settings are
_WORDS: Final = 500  # of a long text: about as many tokens as are encoded between two steps
_SCORED_AT_ONCE: Final = 512  # tokens of candidates, between two steps of what is decoded
_AT_ONCE: Final = 1000  # characters that are tokenized in less time than handing them to a thread takes


@dataclass(frozen=True, slots=True)
class Filled:
    """An input's answer.

    Attributes:
        number: Of the input.
        request: The input.
        fills: Best first.
        generations: In the scheduler's order.
    """

    number: int
    request: Request
    fills: list[Fill]
    generations: list[Generation]


@dataclass(frozen=True, slots=True)
class Change:
    """A span that has grown.

    Attributes:
        number: Of the input.
        sample: Which of its sequences.
        span: As it is now.
        event: The token that changed it.
    """

    number: int
    sample: int
    span: Span
    event: TokenEvent


@dataclass(frozen=True, slots=True)
class Scored:
    """How likely a candidate is.

    Attributes:
        score: Of all of it, as `Infiller.score` gives it.
        spans: Summed log-probabilities of each span's tokens, as a fill's spans have them; in the order of the text.
    """

    score: float
    spans: list[float]


@dataclass(frozen=True, slots=True)
class Routed:
    """Where tokens went.

    Attributes:
        source: Tokens of the input, as text.
        fed: Tokens that were fed to the decoder, as text; its start token first.
        encoder: Expert of each, int64 [sparse layers, source].
        decoder: Likewise, int64 [sparse layers, fed].
    """

    source: tuple[str, ...]
    fed: tuple[str, ...]
    encoder: NDArray[np.int64]
    decoder: NDArray[np.int64]


class Filling:
    """Texts that a scheduler has taken. They are given up if whoever waits for them is cancelled, or one fails.

    Attributes:
        requests: The texts.
        deadline: When their answer must be there, in seconds of `time.monotonic`; never, where None.
    """

    def __init__(
        self,
        infiller: Infiller,
        requests: Sequence[Request],
        tickets: Sequence[Ticket[list[Generation]]],
        deadline: float | None = None,
    ) -> None:
        self._infiller, self.requests, self._tickets, self.deadline = infiller, requests, tickets, deadline

    async def filled(self) -> list[Filled]:
        """Wait for all.

        Raises:
            PointsmanError: As `Ticket.answer`, of the first that failed.
        """
        async with self._held():
            return [await self._answer(number) for number in range(len(self.requests))]

    async def changes(self) -> AsyncIterator[Change | Filled]:
        """Every span as it grows, of all inputs as they come; each input's answer after its last change.

        Raises:
            PointsmanError: As `filled`.
        """
        changes: asyncio.Queue[Change | Filled | BaseException] = asyncio.Queue()
        async with self._held():
            readers = [asyncio.create_task(self._read(number, changes)) for number in range(len(self.requests))]
            try:
                left = len(readers)
                while left:
                    change = await changes.get()
                    if isinstance(change, BaseException):
                        raise change
                    left -= isinstance(change, Filled)
                    yield change
            finally:
                for reader in readers:
                    reader.cancel()

    async def _read(self, number: int, changes: "asyncio.Queue[Change | Filled | BaseException]") -> None:
        try:
            async for change in self._changes_of(number):
                await changes.put(change)
            await changes.put(await self._answer(number))
        except Exception as error:  # noqa: BLE001 - raised again where the changes are read
            await changes.put(error)

    async def _changes_of(self, number: int) -> AsyncIterator[Change]:
        request = self.requests[number]
        readers = [self._infiller.reader(request) for _ in range(request.options.num_return_sequences)]
        async for events in self._tickets[number].events():
            for event in events:
                reader = readers[event.return_index]
                reader.read(event.token_id, event.logprob)
                for span in reader.changes(ended=event.finish_reason is not None):
                    yield Change(number, event.return_index, span, event)

    async def _answer(self, number: int) -> Filled:
        generations = await self._tickets[number].answer()
        request = self.requests[number]
        return Filled(number, request, self._infiller.fills(request, generations), generations)

    @asynccontextmanager
    async def _held(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            for ticket in self._tickets:
                ticket.cancel()  # does nothing to those that are answered


class Service:
    """One bundle, served under a name.

    Attributes:
        name: What clients call it.
        infiller: Its bundle.
        scheduler: Who owns the model.
        limits: What is taken from clients.
    """

    def __init__(self, name: str, infiller: Infiller, scheduler: Scheduler, limits: ServiceLimits) -> None:
        self.name, self.infiller, self.scheduler, self.limits = name, infiller, scheduler, limits
        self._is_warm = False
        self._routing = asyncio.Semaphore(1)

    @property
    def is_ready(self) -> bool:
        """Whether a request would be taken and answered: it has answered one, and is not stopping."""
        return self._is_warm and self.scheduler.is_alive

    async def start(self) -> None:
        """Start the scheduler, and answer first requests, which take longer than others.

        On the CPU they take as many rows and tokens as a step may have, so that the engine has the memory from then on.
        A service that has started is left as it is.

        Raises:
            PointsmanError: The bundle cannot answer.
        """
        if self._is_warm:
            return
        self.scheduler.start()
        for asked in self._warm_ups():
            requests = self._requests(asked, first=0)
            tickets = self.scheduler.submit_all([self._job(request, is_streamed=False) for request in requests])
            await Filling(self.infiller, requests, tickets).filled()
        self._is_warm = True

    def _warm_ups(self) -> Iterator[list[tuple[str, DecodingFields]]]:
        """What is asked together at first."""
        short: DecodingFields = {**_PLAIN, "max_new_tokens": 2}
        yield [(_WARM_UP, {**short, "constrain": False})]
        if self.infiller.model.choice.device != "cpu":
            return
        limits = self.scheduler.limits
        yield [(self._long_text(), short)]
        yield [(_WARM_UP, {**short, "do_sample": True, "seed": 0, "num_return_sequences": limits.rows})]
        yield [(_WARM_UP, short)] * min(limits.rows, limits.waiting)

    def _long_text(self) -> str:
        """As long a text as this bundle takes, up to some length."""
        words, text = _WORDS, "A <extra_id_0> is" + _WORDS * " warm"
        while words and len(self.infiller.tokenizer.encode(text)) > self.infiller.model.manifest.limits.tokens:
            words //= 2
            text = "A <extra_id_0> is" + words * " warm"
        return text

    def deadline(self, seconds: float | None = None) -> float:
        """When an answer must be there that is asked for now, in seconds of `time.monotonic`."""
        return time.monotonic() + min(self.limits.seconds, self.limits.seconds if seconds is None else seconds)

    async def fill(
        self,
        texts: Sequence[str],
        fields: DecodingFields,
        *,
        first: int = 0,
        is_streamed: bool = False,
        seconds: float | None = None,
    ) -> Filling:
        """Take texts to fill, all or none.

        Args:
            texts: With blanks.
            fields: Decoding options.
            first: Number of the first text, where they are part of more: samples follow from it.
            is_streamed: Whether `changes` will be read.
            seconds: How long the client waits.

        Raises:
            TextError: A text cannot be filled.
            OptionsError: The options cannot be, or there are too many texts.
            BusyError: As many texts wait as may.
            UnavailableError: The service is starting or stopping.
        """
        asked = [(text, fields) for text in texts]
        return await self.fill_each(asked, first=first, is_streamed=is_streamed, seconds=seconds)

    async def fill_each(
        self,
        asked: Sequence[tuple[str, DecodingFields]],
        *,
        first: int = 0,
        is_streamed: bool = False,
        seconds: float | None = None,
    ) -> Filling:
        """As `fill`, of texts with decoding options of their own."""
        texts = [text for text, _ in asked]
        self._check_texts(texts)
        deadline = self.deadline(seconds)
        if sum(map(len, texts)) <= _AT_ONCE:
            requests = self._requests(asked, first)
        else:
            requests = await asyncio.to_thread(self._requests, asked, first)
        jobs = [self._job(request, is_streamed=is_streamed) for request in requests]
        return Filling(self.infiller, requests, self.scheduler.submit_all(jobs, deadline=deadline), deadline)

    def check_routing(self) -> None:
        """Refuse to show where tokens go, if the model does not.

        Raises:
            OptionsError: It does not.
        """
        if not self.infiller.model.shows_routing:
            raise OptionsError(
                "this model does not show where tokens go; start it with `pointsman serve --with-routing`"
            )

    async def routed(self, filled: Filled, deadline: float | None = None) -> Routed:
        """Where the tokens of a text and of its best fill went; one text at a time, beside the scheduler.

        Args:
            filled: The text's answer.
            deadline: When it must be known, in seconds of `time.monotonic`; never, where None.

        Raises:
            DeadlineError: It is not.
        """
        best = max(filled.generations, key=lambda generation: generation.score)
        model = self.infiller.model
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                routing = await self._routes(filled.request.ids, best.token_ids)
        except TimeoutError:
            raise DeadlineError(
                "where the tokens went was not known in time; ask for less, or allow more time"
            ) from None
        fed = [model.special_tokens.decoder_start_id, *best.token_ids[:-1]]
        return Routed(
            tuple(map(self._token, filled.request.ids)), tuple(map(self._token, fed)), routing.encoder, routing.decoder
        )

    async def _routes(self, input_ids: Sequence[int], token_ids: Sequence[int]) -> Routing:
        """`SwitchModel.routes` in a thread, which goes on where nobody waits any more; the next begins after it."""
        await self._routing.acquire()
        routes = asyncio.get_running_loop().run_in_executor(None, self.infiller.model.routes, input_ids, token_ids)
        routes.add_done_callback(self._routes_ended)
        return await asyncio.shield(routes)

    def _routes_ended(self, routes: "asyncio.Future[Routing]") -> None:
        self._routing.release()
        if not routes.cancelled():
            routes.exception()  # seen, whether or not somebody waits for it

    def _token(self, token: int) -> str:
        return self.infiller.tokenizer.decode_span([token]).strip() or "␣"

    async def score(self, text: str, candidates: Sequence[Sequence[str]], seconds: float | None = None) -> list[Scored]:
        """Log-likelihoods of candidates, and of each of their spans.

        Raises:
            PointsmanError: As for `fill`, and as `Ticket.answer`.
        """
        self._check_texts([text])
        if len(candidates) > self.limits.candidates:
            raise OptionsError(
                f"{len(candidates)} candidates are too many; this service scores {self.limits.candidates}"
            )
        deadline = self.deadline(seconds)
        jobs = await asyncio.to_thread(self._scoring, text, candidates)
        tickets = self.scheduler.submit_all(jobs, deadline=deadline)
        try:
            return [
                Scored(float(logprobs.sum()), self.infiller.span_scores(text, target, logprobs.tolist()))
                for job, ticket in zip(jobs, tickets, strict=True)
                for target, logprobs in zip(job.targets, await ticket.answer(), strict=True)
            ]
        finally:
            for ticket in tickets:
                ticket.cancel()

    def _check_texts(self, texts: Sequence[str]) -> None:
        if not texts:
            raise TextError("there is no text; give at least one")
        if len(texts) > self.limits.texts:
            raise OptionsError(f"{len(texts)} texts are too many; this service takes {self.limits.texts} at a time")
        longest = max(map(len, texts))
        if longest > self.limits.characters:
            raise TextError(f"a text has {longest} characters; this service takes {self.limits.characters} at most")

    def _requests(self, asked: Sequence[tuple[str, DecodingFields]], first: int) -> list[Request]:
        is_alone = len(asked) == 1 and not first
        return [
            self._request(text, number, fields, is_alone=is_alone)
            for number, (text, fields) in enumerate(asked, start=first)
        ]

    def _request(self, text: str, number: int, fields: DecodingFields, *, is_alone: bool) -> Request:
        try:
            return self.infiller.request(text, number=number, **fields)
        except TextError as error:
            if is_alone:
                raise
            told = str(error).removeprefix("input 0")
            raise TextError(f"input {number}{told}" if told != str(error) else f"input {number}: {told}") from error
        except OptionsError as error:
            raise OptionsError(str(error).replace("of input 0;", f"of input {number};")) from error

    def _job(self, request: Request, *, is_streamed: bool) -> DecodingJob:
        return DecodingJob(
            ids=request.ids,
            options=request.options,
            constraint=self.infiller.constraint(request),
            number=request.number,
            is_streamed=is_streamed,
        )

    def _scoring(self, text: str, candidates: Sequence[Sequence[str]]) -> list[ScoringJob]:
        """Jobs of some candidates each, so that what is decoded meanwhile waits for none of them long."""
        longest = max((len(span) for spans in candidates for span in spans), default=0)
        if longest > self.limits.characters:
            raise TextError(f"a span has {longest} characters; this service takes {self.limits.characters} at most")
        ids, targets = self.infiller.targets(text, candidates)
        self.infiller.model.check_ids([ids], "input")
        if targets:
            self.infiller.model.check_ids(targets, "candidate")
        return [ScoringJob(ids=ids, targets=some) for some in _portions(targets)]


def _portions(targets: Sequence[list[int]]) -> Iterator[list[list[int]]]:
    """Neighbours that have so many tokens together, and at least one of them."""
    portion: list[list[int]] = []
    for target in targets:
        if portion and sum(map(len, portion)) + len(target) > _SCORED_AT_ONCE:
            yield portion
            portion = []
        portion.append(target)
    if portion:
        yield portion

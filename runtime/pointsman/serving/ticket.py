"""What a request holds while the scheduler works on it.

A ticket has two sides. Whoever asks is in an event loop, and reads tokens, waits for the answer, or gives up. The
scheduler is in a thread of its own, and hands over tokens and one end: an answer or an error. All that the two share
changes in the event loop's thread, so nothing needs a lock.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Generic, TypeVar

from pointsman.decoding import TokenEvent
from pointsman.errors import DeadlineError

Answer = TypeVar("Answer")


class Ticket(Generic[Answer]):
    """A request that was taken, to be used in the event loop in which it was made.

    It ends once: with an answer, with an error, at its deadline, or when it is cancelled.

    Attributes:
        made_at: When it was made, in seconds of `time.monotonic`.
    """

    def __init__(self, deadline: float | None = None) -> None:
        """Begin one, in a running event loop.

        Args:
            deadline: When the answer must be there, in seconds of `time.monotonic`; never, where None.
        """
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[Answer] = self._loop.create_future()
        self._tokens: asyncio.Queue[tuple[TokenEvent, ...] | None] = asyncio.Queue()
        self._is_over = False
        self.made_at = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        if deadline is not None:
            self._timer = self._loop.call_later(max(0.0, deadline - self.made_at), self._expire)
        self._answer.add_done_callback(self._ended)

    async def answer(self) -> Answer:
        """Wait for the end.

        Returns:
            What the job's class says.

        Raises:
            DeadlineError: It was not there in time.
            UnavailableError: The scheduler stopped before it was there.
            CancelledError: (asyncio's) `cancel` was called.
            PointsmanError: As the model's methods do, for this request alone.
        """
        return await asyncio.shield(self._answer)

    async def events(self) -> AsyncIterator[tuple[TokenEvent, ...]]:
        """The tokens as they come: of a step, those of each of the request's sequences that it extended.

        `input_index` is 0. For one reader, who may begin at any time: what has come is kept. Only streamed jobs have
        any; all others end without.

        Raises:
            PointsmanError: As `answer`, after the tokens that came before.
        """
        while (tokens := await self._tokens.get()) is not None:
            yield tokens
        await self.answer()

    def cancel(self) -> None:
        """Give up: the scheduler frees the request's rows before its next step. Does nothing after the end."""
        self._answer.cancel()

    @property
    def is_over(self) -> bool:
        """Whether it has ended, so that nobody waits for more; may be read from any thread."""
        return self._is_over

    def emit(self, tokens: tuple[TokenEvent, ...]) -> None:
        """Hand over the tokens of a step; for the scheduler, from its thread."""
        self._in_loop(lambda: self._tokens.put_nowait(tokens))

    def finish(self, answer: Answer) -> None:
        """End with an answer, unless it has ended; for the scheduler, from its thread."""
        self._in_loop(lambda: None if self._answer.done() else self._answer.set_result(answer))

    def fail(self, error: BaseException) -> None:
        """End with an error, unless it has ended; for the scheduler, from its thread."""
        self._in_loop(lambda: None if self._answer.done() else self._answer.set_exception(error))

    def _in_loop(self, act: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the event loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(act)

    def _expire(self) -> None:
        if not self._answer.done():
            waited = time.monotonic() - self.made_at
            self._answer.set_exception(
                DeadlineError(f"the answer was not there after {waited:.3g} s; ask for less, or allow more time")
            )

    def _ended(self, answer: "asyncio.Future[Answer]") -> None:
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        if not answer.cancelled():
            answer.exception()  # seen, whether or not somebody waits for it
        self._tokens.put_nowait(None)

"""How far a run is, on stderr: redrawn in one line on a terminal, and a line every ten seconds where it is none."""

import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Final, Self, TextIO

from pointsman.cli.output import tell

_SECONDS_ON_A_TERMINAL: Final = 0.5
_SECONDS_BETWEEN_LINES: Final = 10.0
_SECONDS_TO_ESTIMATE: Final = 5.0  # the first batch brings caches and threads into being
_SECONDS_TO_SAY_A_RATE: Final = 1.0
_MINUTE, _HOUR = 60, 3600


class Progress:
    """From `with` on, a thread of its own says it, so that nothing is late where a batch takes long.

    Attributes:
        total: Lines in all, where that can be known.
        before: Lines that had records before.
        answered: Lines that this run has answered.
        failed: Lines in all whose record says why they cannot be filled.
    """

    def __init__(
        self, total: int | None, stream: TextIO | None, *, before: int = 0, failed: int = 0, window: int = 1
    ) -> None:
        """Say nothing yet.

        Args:
            total: As the attribute.
            stream: Where it is said; nowhere, where None.
            before: As the attribute.
            failed: Of those.
            window: Fewer lines tell nothing of the speed.
        """
        self.total, self.before, self.answered, self.failed = total, before, 0, failed
        self._stream, self._window = stream, window
        self._waiting, self._filled = set[int](), 0
        self._ended = threading.Event()
        self._said = threading.Thread(target=self._say, daemon=True)

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._said.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._said.join()

    def wait(self, lines: Iterable[int], *, filled: bool) -> None:
        """Count lines that are filled and wait for an earlier one's record.

        Args:
            lines: By their numbers.
            filled: Whether this run has filled them, or an earlier one.
        """
        before = len(self._waiting)
        self._waiting |= {*lines}
        self._filled += (len(self._waiting) - before) * filled

    def count(self, line: int, *, failed: bool) -> None:
        """Count a line that was answered."""
        self._filled += line not in self._waiting
        self._waiting.discard(line)
        self.answered += 1
        self.failed += failed

    @property
    def waiting(self) -> int:
        """Lines that are filled and wait for an earlier one's record."""
        return len(self._waiting)

    @property
    def done(self) -> int:
        """Lines that have records."""
        return self.before + self.answered

    @property
    def now(self) -> str:
        """How far the run is, how fast, and how long the rest will take, as far as that is known."""
        seconds = time.monotonic() - self._began
        if self._filled < self._window or seconds < _SECONDS_TO_ESTIMATE:
            return self._lines
        rate = self._filled / seconds
        rest = None if self.total is None else self.total - self.done - self.waiting
        left = "" if rest is None else f", about {duration(rest / rate)} left"
        return f"{self._lines}, {rate:,.1f} a second{left}"

    @property
    def end(self) -> str:
        """What came of it."""
        if self.before and not self.answered:
            return f"{self._lines}, all there already{self._errors}: done"
        there = f" ({self.before:,} there already)" if self.before else ""
        seconds = time.monotonic() - self._began
        rate = f", {self._filled / seconds:,.1f} a second" if seconds >= _SECONDS_TO_SAY_A_RATE else ""
        return f"{self._lines}{there}{rate}{self._errors}: done"

    @property
    def _lines(self) -> str:
        filled = self.done + self.waiting
        return f"{filled:,}" + (" lines" if self.total is None else f" of {self.total:,} lines")

    @property
    def _errors(self) -> str:
        return f", {self.failed:,} with an error" if self.failed else ""

    def _say(self) -> None:
        terminal = self._stream is not None and self._stream.isatty()
        begin, end = ("\r", "\x1b[K") if terminal else ("pointsman: ", "\n")
        while not self._ended.wait(_SECONDS_ON_A_TERMINAL if terminal else _SECONDS_BETWEEN_LINES):
            tell(self._stream, f"{begin}{self.now}{end}")
        if terminal:
            tell(self._stream, "\r\x1b[K")  # leave the line to what is said next


def duration(seconds: float) -> str:
    """A time that is estimated: seconds up to two minutes, minutes up to two hours."""
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.1f} h"

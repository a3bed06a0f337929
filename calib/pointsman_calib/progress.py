"""How far something long is, on stderr: a bar on a terminal, and where it is none a line now and then."""

import sys
import threading
import time
from types import TracebackType
from typing import ClassVar, Final, NoReturn, Self

from tqdm import tqdm

SECONDS_BETWEEN_LINES: Final = 10.0


class Progress:
    """One stage of a command, from `with` on; both ways of showing it estimate the time that is left.

    Lines come from a thread of their own, so that none is late where a single step takes long. Of stages within stages,
    the innermost writes lines.
    """

    _open: ClassVar[list["Progress"]] = []

    def __init__(self, what: str, total: float, *, unit: str = "", done: float = 0) -> None:
        """Show nothing yet.

        Args:
            what: is done, in a few words.
            total: of all that `update` will be given, and of what was done before.
            unit: of these; those of `B` are shown as MB or GB. Without one, only a share of the total is shown.
            done: before.
        """
        self._what, self._total, self._unit = what, total, unit
        self._before = self._done = done
        self._bar: tqdm[NoReturn] | None = None
        self._ended = threading.Event()
        self._lines: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._open.append(self)
        if sys.stderr.isatty():
            shown = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]"
            self._bar = tqdm(
                total=self._total,
                desc=self._what,
                unit=self._unit,
                unit_scale=self._unit == "B",
                initial=self._done,
                bar_format=shown if self._unit else "{l_bar}{bar}| [{elapsed}<{remaining}]",
            )
        else:
            self._lines = threading.Thread(target=self._write_lines, daemon=True)
            self._lines.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._open.remove(self)
        if self._bar is not None:
            self._bar.close()
        if self._lines is not None:
            self._lines.join()

    def update(self, amount: float = 1) -> None:
        """So much more is done."""
        self._done += amount
        if self._bar is not None:
            self._bar.update(amount)

    def _write_lines(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_LINES):
            if self._open[-1:] != [self]:
                continue
            sys.stderr.write(line(self._what, *self._state()) + "\n")
            sys.stderr.flush()

    def _state(self) -> tuple[float, float, float | None]:
        """The share that is done, the seconds since the beginning, and those that are left, where that is known."""
        seconds, done = time.monotonic() - self._began, self._done
        share = min(1.0, done / self._total) if self._total else 1.0
        since = done - self._before
        return share, seconds, seconds * max(0.0, self._total - done) / since if since > 0 else None


def line(what: str, share: float, seconds: float, left: float | None) -> str:
    """What is said where there is no terminal."""
    rest = "" if left is None else f", about {_duration(left)} left"
    return f"pointsman-calib: {what}: {share:.0%} after {_duration(seconds)}{rest}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"

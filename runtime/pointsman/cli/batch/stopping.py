"""Ctrl-C and SIGTERM while lines are filled: both end the run between two records."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Final

from pointsman.cli.output import Interrupted

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """What the signals do, from `taken` to its end.

    Attributes:
        number: The signal that came; that of Ctrl-C until one has. Ray makes a plain `KeyboardInterrupt` of any.
    """

    def __init__(self) -> None:
        """Nothing is held."""
        self._held, self._asked = False, 0
        self.number: int = signal.SIGINT

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Let both signals raise `Interrupted`; one that is ignored, as in the background, stays so.

        Raises:
            Interrupted: One came.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        try:
            for number, handler in before.items():
                if handler is not signal.SIG_IGN:
                    signal.signal(number, self._stop)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Put off what comes meanwhile.

        Raises:
            Interrupted: At the end, if one came.
        """
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._asked:
            raise Interrupted(number=self._asked)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        if not self._held:
            raise Interrupted(number=number)
        self._asked = number

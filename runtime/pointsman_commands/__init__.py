"""Where the three commands begin, before anything of theirs is imported: Ctrl-C is one line from here on.

A package of its own, since importing `pointsman` takes a while already. Nothing but the standard library is imported.
"""

import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Final, NoReturn

_SIGNALLED: Final = 128  # and the number of the signal, as shells have it


def runtime() -> int:
    """`pointsman`."""
    return _run("pointsman")


def export() -> int:
    """`pointsman-export`."""
    return _run("pointsman-export")


def calib() -> int:
    """`pointsman-calib`."""
    return _run("pointsman-calib")


@contextlib.contextmanager
def at_once(command: str) -> Iterator[None]:
    """Let Ctrl-C, and SIGTERM where something of Python's takes it, end the process with one line.

    This is for importing and loading, where nothing is left behind. An exception would not do: raised while a library's
    own modules are set up, it comes out as another one, aborts the process, or is lost.

    Args:
        command: Whose line it is.
    """

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        sys.stderr.write(f"{command}: interrupted\n")
        sys.stderr.flush()
        os._exit(_SIGNALLED + number)

    # Ignored, as in the background, a signal stays so; and only a main thread may say what one does.
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM) if main}
    taken = {number: handler for number, handler in before.items() if callable(handler)}
    for number in taken:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)


def _run(command: str) -> int:
    """Import a command and run it; returns its exit code."""
    try:
        with at_once(command):
            main = importlib.import_module(f"{command.replace('-', '_')}.cli.main").main
        code: int = main()
    except KeyboardInterrupt:  # before or after what the command itself catches
        sys.stderr.write(f"{command}: interrupted\n")
        return _SIGNALLED + signal.SIGINT
    return code

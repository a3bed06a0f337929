"""Results go to stdout, everything else to stderr."""

import contextlib
import errno
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, BinaryIO, Final, TextIO

from pointsman.errors import OutputError

PIPE_BROKEN: Final = 141  # 128 + SIGPIPE, as shells have it


class Interrupted(KeyboardInterrupt):
    """A signal has ended the command.

    Attributes:
        number: The signal's.
    """

    def __init__(self, sentence: str = "interrupted", *, number: int = signal.SIGINT) -> None:
        """Say how far it came."""
        super().__init__(sentence)
        self.number = number


def write_json(document: dict[str, Any]) -> None:
    """Print a document for programs."""
    write(json.dumps(document, indent=1) + "\n")


def open_stdout() -> None:
    """Let results be UTF-8 whatever the locale; names of files that are not come out as they are.

    Raises:
        OutputError: There is no stdout.
    """
    if sys.stdout is None:
        raise OutputError("stdout is closed; send the results to a file or a pipe")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")


def run_to_the_end(run: Callable[[], int]) -> int:
    """The exit code of a command that prints results; 141, as by SIGPIPE, where their reader has gone.

    Args:
        run: The command.

    Raises:
        OutputError: Results cannot be written.
    """
    try:
        code = run()
        if sys.stdout is not None:
            write("")  # what is printed may wait to be written
    except BrokenPipeError:
        _give_up(sys.stdout)
        return PIPE_BROKEN
    return code


def write(results: str) -> None:
    """Print results.

    Args:
        results: Written with one call, and flushed.

    Raises:
        OutputError: They cannot be written.
    """
    try:
        sys.stdout.write(results)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _give_up(sys.stdout)
        advice = "free some space or send them elsewhere" if error.errno == errno.ENOSPC else "send them elsewhere"
        raise OutputError(f"cannot write the results ({error.strerror}); {advice}") from error


def write_whole(file: BinaryIO, content: bytes | bytearray) -> None:
    """Write all of it to a file without a buffer, so that nothing is left to be written when it is closed.

    Raises:
        OSError: The disk refuses; a part may be written.
    """
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def _give_up(stream: TextIO) -> None:
    """Python writes what is left once more when it exits; let that go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def report(sentence: str) -> None:
    """Say something to the person who runs the command."""
    tell(sys.stderr, f"pointsman: {sentence}\n")


def tell(stream: TextIO | None, text: str) -> None:
    """Write what nobody need read: where stderr is closed, full, or read by nobody, the work goes on."""
    if stream is None:
        return
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):  # it may have no number
            _give_up(stream)

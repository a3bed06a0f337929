"""Results go to stdout, everything else to stderr."""

import errno
import io
import json
import os
import sys
from typing import Any, TextIO

from pointsman.errors import OutputError


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


def write(results: str, file: TextIO | None = None) -> None:
    """Print results.

    Args:
        results: Written with one call, and flushed.
        file: Where; stdout where None.

    Raises:
        OutputError: They cannot be written.
    """
    output = sys.stdout if file is None else file
    try:
        output.write(results)
        output.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        if output is sys.stdout:
            give_up_stdout()
        advice = "free some space or send them elsewhere" if error.errno == errno.ENOSPC else "send them elsewhere"
        raise OutputError(f"cannot write the results ({error.strerror}); {advice}") from error


def give_up_stdout() -> None:
    """Python flushes stdout once more when it exits; let that go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def report(sentence: str) -> None:
    """Say something to the person who runs the command."""
    sys.stderr.write(f"pointsman: {sentence}\n")

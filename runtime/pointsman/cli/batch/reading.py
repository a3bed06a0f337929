"""The lines of a file of texts: plain, or JSON objects with a text each; gzipped files too."""

import codecs
import contextlib
import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from pointsman.errors import TextError
from pointsman.wording import as_text

_GZIP: Final = b"\x1f\x8b"
_BLOCK: Final = 1 << 20  # bytes
_SHOWN: Final = 40  # characters of what is no text


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the input.

    Attributes:
        number: From 1.
        raw: As it stands there, without its end.
        text: To be filled; empty where the line is.
        given: What comes back in the record: the `id` of a JSON object that has one.
        error: Why it is none of that.
    """

    number: int
    raw: bytes
    text: str = ""
    given: Mapping[str, object] = field(default_factory=dict)
    error: str | None = None


def read_lines(stream: BinaryIO, *, plain: bool = False) -> Iterator[Line]:
    """The lines of a file: objects if the first line that is not empty begins with `{`, else plain texts.

    Args:
        stream: Of bytes.
        plain: Take them as plain texts whatever the first one is.

    Raises:
        TextError: What is read is no text, or cannot be read to its end.
    """
    raw, head = _raw(stream), list[bytes]()
    for line in raw:
        head.append(line if head else line.removeprefix(codecs.BOM_UTF8))
        if head[-1].strip():
            break
    first = head[-1] if head else b""
    if b"\0" in first:
        raise TextError(f"line {len(head)} of the input has zero bytes, so it is no UTF-8 text; give a file of lines")
    read: Callable[[int, bytes], Line] = _plain if plain or not first.lstrip().startswith(b"{") else _object
    for number, line in enumerate(chain(head, raw), 1):
        yield read(number, line) if line.strip() else Line(number, line)


def _raw(stream: BinaryIO) -> Iterator[bytes]:
    number = 0
    try:
        for line in stream:
            number += 1
            yield line.rstrip(b"\r\n")
    except EOFError as error:
        raise TextError(f"the input is cut off after line {number}; get the whole file again") from error
    except (OSError, zlib.error) as error:
        raise TextError(f"the input cannot be read after line {number} ({error}); get the whole file again") from error


def _plain(number: int, raw: bytes) -> Line:
    try:
        return Line(number, raw, raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Line(number, raw, error=_no_text(error))


def _no_text(error: UnicodeDecodeError) -> str:
    return f"byte 0x{error.object[error.start]:02X} at {error.start + 1} is not UTF-8; save the file as UTF-8"


def _object(number: int, raw: bytes) -> Line:
    """A line that must be an object with a text."""
    try:
        document = json.loads(raw.decode("utf-8"), parse_constant=_no_number)
    except UnicodeDecodeError as error:
        return Line(number, raw, error=_no_text(error))
    except json.JSONDecodeError as error:
        return Line(number, raw, error=_no_object(f"{error.msg} at {error.pos + 1}"))
    except (ValueError, RecursionError) as error:
        return Line(number, raw, error=_no_object(str(error)))
    if not isinstance(document, dict):
        return Line(number, raw, error=_no_object("it is other JSON"))
    given = {"id": document["id"]} if "id" in document else {}
    if "text" not in document:
        return Line(number, raw, given=given, error="the object has no text; every object needs one")
    text: Any = document["text"]
    if not isinstance(text, str):
        shown = json.dumps(text)
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
        return Line(number, raw, given=given, error=f"its text is no string but {shown}; put it in quotes")
    return Line(number, raw, text, given)


def _no_object(why: str) -> str:
    return f"it is no JSON object ({why}), and the first line begins as one; mend it, or take all as texts with --plain"


def _no_number(name: str) -> None:
    """NaN and infinities are Python's, and not JSON's."""
    raise ValueError(f"{name} is no JSON")


def stdin() -> BinaryIO:
    """The bytes of stdin.

    Raises:
        TextError: There is none.
    """
    if sys.stdin is None:
        raise TextError("stdin is closed; send the texts to it as lines, or give them in place of -")
    return sys.stdin.buffer


@contextlib.contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """A file of lines, unpacked if it is gzipped.

    Args:
        path: Where it is; `-` is stdin, which is taken as it comes.

    Raises:
        TextError: It cannot be read.
    """
    if path == "-":
        yield stdin()
        return
    with _file(path) as file:
        if file.peek(len(_GZIP))[: len(_GZIP)] == _GZIP:  # type: ignore[attr-defined]
            yield cast("BinaryIO", gzip.GzipFile(fileobj=file))
        elif path.endswith(".gz"):
            raise TextError(f"{as_text(path)} is not gzip, though its name says so; get it again, or rename it")
        else:
            yield file


def _file(path: str) -> BinaryIO:
    if Path(path).is_dir():
        raise TextError(f"{as_text(path)} is a folder; name a file in it")
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise TextError(
            f"{as_text(path)} cannot be read ({error.strerror}); check the path and its permissions"
        ) from error


def line_count(path: str) -> int | None:
    """Lines of a file that can be read twice; None of others, and of a damaged one, which reading it will say."""
    if not Path(path).is_file():
        return None
    count, last = 0, b"\n"
    try:
        with opened(path) as file:
            while block := file.read(_BLOCK):
                count, last = count + block.count(b"\n"), block[-1:]
    except (OSError, EOFError, zlib.error):
        return None
    return count + (last != b"\n")

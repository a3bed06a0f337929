"""The lines of a file of texts: plain, or JSON objects with a text each; gzipped files too."""

import codecs
import contextlib
import gzip
import json
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, cast

from pointsman.errors import TextError
from pointsman.text.json_lines import NO_OBJECT, check_beginning, decoded, object_of
from pointsman.wording import as_text

Form = Literal["plain", "objects"]

_GZIP: Final = b"\x1f\x8b"
_BLOCK: Final = 1 << 20  # bytes
_ADD_PLAIN: Final = "; if lines are plain texts, add --plain"
_NOT_OBJECTS: Final = "; if lines are plain texts, give --plain in place of --objects"
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


def read_lines(stream: BinaryIO, form: Form | None = None) -> tuple[Form | None, Iterator[Line]]:
    """The lines of a file, and as what they are taken; None where all are empty.

    Args:
        stream: Of bytes; it is read until a line is not empty.
        form: As what to take them. Where it is None, as objects if the first line that is not empty begins with `{`,
            else as plain texts, none of which may then hold JSON.

    Raises:
        TextError: What is read is no text, cannot be read to its end, or is of both forms.
    """
    raw, head = _raw(stream), list[bytes]()
    for line in raw:
        head.append(line if head else line.removeprefix(codecs.BOM_UTF8))
        if head[-1].strip():
            break
    first = head[-1] if head else b""
    try:
        check_beginning(first)
    except TextError as error:
        raise TextError(f"line {len(head)} of the input: {error}") from None
    taken = form or (("objects" if first.lstrip().startswith(b"{") else "plain") if first.strip() else None)
    read = _object if taken == "objects" else _plain if form else _plain_throughout
    lines = (read(number, line) if line.strip() else Line(number, line) for number, line in _numbered(head, raw))
    advice = _NOT_OBJECTS if form else _ADD_PLAIN
    return taken, _with_advice(lines, len(head), advice) if taken == "objects" else lines


def _numbered(head: Iterable[bytes], raw: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    return enumerate(chain(head, raw), 1)


def _with_advice(lines: Iterable[Line], first: int, advice: str) -> Iterator[Line]:
    """Where the first line that is not empty is no object, all may be plain texts."""
    for line in lines:
        if line.number == first and line.error and line.error.startswith(NO_OBJECT):
            yield replace(line, error=f"{line.error}{advice}")
        else:
            yield line


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
        return Line(number, raw, decoded(raw))
    except TextError as error:
        return Line(number, raw, error=str(error))


def _plain_throughout(number: int, raw: bytes) -> Line:
    """A plain text of a file in which nobody has said that all lines are.

    Raises:
        TextError: It holds an object, so that the others may be meant as objects too: its JSON is not to be filled.
    """
    if _holds_object(raw):
        raise TextError(
            f"line {number} of the input holds a JSON object, and lines are taken as plain texts, since the first that "
            "is not empty does not begin with {; add --objects, and mend or skip lines that are none, or take all as "
            "texts with --plain"
        )
    return _plain(number, raw)


def _holds_object(raw: bytes) -> bool:
    """Whether a line is an object, as of a list that takes many lines, or a list of objects."""
    bare = raw.strip().rstrip(b",")
    if bare[:1] not in (b"{", b"["):
        return False
    try:
        document = json.loads(bare)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) or any(isinstance(one, dict) for one in document)


def _object(number: int, raw: bytes) -> Line:
    """A line that must be an object with a text."""
    try:
        document = object_of(raw)
    except TextError as error:
        return Line(number, raw, error=str(error))
    given = {"id": document["id"]} if "id" in document else {}
    if "text" not in document:
        return Line(number, raw, given=given, error="the object has no text; every object needs one")
    text: Any = document["text"]
    if not isinstance(text, str):
        shown = json.dumps(text)
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
        return Line(number, raw, given=given, error=f"its text is no string but {shown}; put it in quotes")
    return Line(number, raw, text, given)


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

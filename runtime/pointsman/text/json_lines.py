"""A line that must be a JSON object, of files of lines and of rows."""

import json
import math
import re
from typing import Any, Final, cast

from pointsman.errors import TextError

NO_OBJECT: Final = "it is no JSON object"
_WHAT: Final = {list: "a list", str: "a string", int: "a number", float: "a number", bool: "a truth value"}
_PACKED: Final = {
    b"\x1f\x8b": ("gzip", "zcat"),
    b"\x28\xb5\x2f\xfd": ("zstd", "zstdcat"),
    b"BZh": ("bzip2", "bzcat"),
    b"\xfd7zXZ\x00": ("xz", "xzcat"),
    b"PK\x03\x04": ("zip", "unzip -p"),
    b"7z\xbc\xaf\x27\x1c": ("7-Zip", "7z x -so"),
    b"\x04\x22\x4d\x18": ("LZ4", "lz4cat"),
}
_TABLES: Final = {
    b"ARROW1": "Arrow",
    b"FEA1": "Feather",
    b"ORC": "ORC",
    b"Obj\x01": "Avro",
    b"SQLite format 3": "SQLite",
}
_CONTROLS: Final = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")


def object_of(line: bytes) -> dict[str, Any]:
    """The JSON object of a line.

    Raises:
        TextError: It is none; the sentence says why, without what to do about the file.
    """
    try:
        document = json.loads(decoded(line), parse_constant=_no_number, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise TextError(f"{NO_OBJECT} ({error.msg} at {error.pos + 1})") from None
    except TextError:  # a ValueError, too
        raise
    except (ValueError, RecursionError) as error:
        raise TextError(f"{NO_OBJECT} ({error})") from None
    if not isinstance(document, dict):
        raise TextError(f"{NO_OBJECT} but {_WHAT.get(type(document), 'null')}")
    return cast("dict[str, Any]", document)


def decoded(line: bytes) -> str:
    """A line as text.

    Raises:
        TextError: It is no UTF-8.
    """
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TextError(
            f"byte 0x{line[error.start]:02X} at {error.start + 1} is not UTF-8; save the file as UTF-8"
        ) from None


def check_beginning(line: bytes) -> None:
    """Refuse what cannot be the first line of a file of lines.

    Raises:
        TextError: It is packed, a table, of another encoding, or no text at all.
    """
    for mark, (name, command) in _PACKED.items():
        if line.startswith(mark):
            raise TextError(f"it is packed by {name}; unpack it, as by `{command} FILE |`, which gives its lines")
    if line.startswith(b"PAR1"):
        raise TextError("it is Parquet; `pointsman fill-files` fills that, if its name ends in .parquet")
    if (table := next((name for mark, name in _TABLES.items() if line.startswith(mark)), None)) and not _is_text(line):
        raise TextError(f"it is {table}; convert it to Parquet for `pointsman fill-files`, or to JSON lines")
    if line.startswith(_UTF_16):
        raise TextError("it is UTF-16; save it as UTF-8")
    if b"\0" in line:
        raise TextError("it has zero bytes, so it is no UTF-8 text; give a file of lines")
    if _CONTROLS.search(line) and not _is_text(line):
        raise TextError("it has control characters and is not UTF-8, so it is no text; give a file of lines")


def _is_text(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return b"\0" not in line


def _finite(digits: str) -> float:
    """A number that would be read as infinity could not be written again."""
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:20]} is past all numbers")
    return number


def _no_number(name: str) -> None:
    """NaN and infinities are Python's, and not JSON's."""
    raise ValueError(f"{name} is no JSON")

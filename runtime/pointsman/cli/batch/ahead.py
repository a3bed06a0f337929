"""What a job's file has behind the digests of lines with records: those of other lines, and records that wait."""

import io
import json
import string
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Self

Record = dict[str, Any]

DIGEST: Final = 8  # bytes
DIGEST_LINE: Final = 2 * DIGEST + 1
_HEXADECIMAL: Final = string.hexdigits.encode()


@dataclass(slots=True)
class Ahead:
    """What a run has left that came further than its records.

    Attributes:
        digests: Of the lines that it had read, as they stand in the file.
        records: Of some of these lines, by their numbers.
        size: Bytes of both in the file, without what was only begun.
    """

    digests: bytes = b""
    records: dict[int, Record] = field(default_factory=dict)
    size: int = 0

    @classmethod
    def read(cls, content: bytes) -> Self:
        """Take apart what stands behind the digests of lines that have records."""
        ahead, digests = cls(), bytearray()
        for line in io.BytesIO(content):
            if not ahead.records and _is_digest(line):
                digests += line
            elif (record := _record(line)) is not None:
                ahead.records[record["line"]] = record
            else:
                break
            ahead.size += len(line)
        ahead.digests = bytes(digests)
        return ahead


def as_lines(records: Iterable[Record]) -> bytes:
    """Records as files of them have them."""
    return "".join(f"{json.dumps(record)}\n" for record in records).encode()


def _is_digest(line: bytes) -> bool:
    return len(line) == DIGEST_LINE and line.endswith(b"\n") and not line[:-1].strip(_HEXADECIMAL)


def _record(line: bytes) -> Record | None:
    """A whole record with fills; None of anything else, as of one that was only begun."""
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and "line" in record and "fills" in record else None

"""Protobuf messages read and written, without a library for them.

A message is its fields one behind the other: a key that says number and kind, and the content. The encoding is that of
https://protobuf.dev/programming-guides/encoding/.
"""

from collections.abc import Iterator
from typing import Final

_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5  # kinds of content
_FIXED: Final = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}


def field(number: int, content: bytes) -> bytes:
    """A field that holds a message or a text."""
    return varint(number << 3 | _BYTES) + varint(len(content)) + content


def varint(number: int) -> bytes:
    """A number in groups of 7 bits, the lowest first; all but the last have the highest bit set."""
    groups = []
    while number >= 1 << 7:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


def integer_of(whole: bytes) -> int:
    """The number in a field that holds one that is not negative."""
    _, place = _read_varint(whole, 0)
    number, _ = _read_varint(whole, place)
    return number


def fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """The fields of a message in order: number, content (of messages and texts; else empty), and the field as it is."""
    place = 0
    while place < len(message):
        start = place
        key, place = _read_varint(message, place)
        content = b""
        kind = key & 7
        if kind == _BYTES:
            length, place = _read_varint(message, place)
            content = message[place : place + length]
            place += length
        elif kind == _VARINT:
            _, place = _read_varint(message, place)
        else:
            place += _FIXED[kind]
        yield key >> 3, content, message[start:place]


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    """A number, and where it ends."""
    number = shift = 0
    while True:
        group = message[place]
        number |= (group & 0x7F) << shift
        place += 1
        if group < 1 << 7:
            return number, place
        shift += 7

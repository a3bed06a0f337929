r"""Text to normalized text by SentencePiece's table, as the reference looks things up in it.

The table (`precompiled_charsmap`) is a trie over UTF-8 bytes and, behind it, the replacements, each ended by a zero
byte. The trie is the double array of Darts-clone (https://github.com/s-yata/darts-clone): 32-bit units, where a child's
place is its parent's offset XOR the byte.

The reference (`Precompiled` of tokenizers 0.23) cuts text into grapheme clusters (Unicode's UAX #29). It looks a
cluster up as a whole up to 5 UTF-8 bytes, and then takes the shortest entry that the cluster begins with, dropping the
rest; where none fits, and for longer clusters, it looks up each character by itself.

SentencePiece's own normalizer takes the longest entry, and says what a text becomes but not which entries made it so.
Then it cannot be known where the reference drops the rest of a cluster. An example: by the rules "c\u0302" to "c" and
"\u0302" to "", the reference makes "c" of "c\u0302\u0323"; without the first rule, "c\u0323". SentencePiece answers
"c\u0323" for that text and "c" for "c\u0302", whether there is the first rule or not. Versions before 0.2.2 also read
beyond the end of a damaged table. Hence a lookup of our own.

What differs: of the rules that only make a cluster longer, that for emoji joined by U+200D is not followed.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Final

import numpy as np

from pointsman.errors import TokenizerError

_LONGEST_CLUSTER: Final = 5  # UTF-8 bytes up to which the reference looks up a cluster as a whole
_SIZE: Final = 4  # bytes of a unit, and of the trie's size in front of it

_FIRST_MARK: Final = "\u0300"
_MARK_CATEGORIES: Final = frozenset({"Mn", "Mc", "Me"})
_CONTROL_CATEGORIES: Final = frozenset({"Cc", "Cf", "Zl", "Zp"})  # nothing attaches to these
# Marks of Unicode 15 to 17, first and last of each run: Python's tables may be older than the reference's.
_NEW_MARKS: Final = (
    (0x897, 0x897), (0xCF3, 0xCF3), (0xECE, 0xECE), (0x1ACF, 0x1ADD), (0x1AE0, 0x1AEB), (0x10D69, 0x10D6D),
    (0x10EFA, 0x10EFF), (0x11241, 0x11241), (0x113B8, 0x113C0), (0x113C2, 0x113C2), (0x113C5, 0x113C5),
    (0x113C7, 0x113CA), (0x113CC, 0x113D0), (0x113D2, 0x113D2), (0x113E1, 0x113E2), (0x11B60, 0x11B67),
    (0x11F00, 0x11F01), (0x11F03, 0x11F03), (0x11F34, 0x11F3A), (0x11F3E, 0x11F42), (0x11F5A, 0x11F5A),
    (0x13440, 0x13440), (0x13447, 0x13455), (0x1611E, 0x1612F), (0x1E08F, 0x1E08F), (0x1E4EC, 0x1E4EF),
    (0x1E5EE, 0x1E5EF), (0x1E6E3, 0x1E6E3), (0x1E6E6, 0x1E6E6), (0x1E6EE, 0x1E6EF), (0x1E6F5, 0x1E6F5),
)  # fmt: skip
# UAX #29: characters of other categories that attach to the one before, marks that do not, and what attaches to the
# character after it.
_ATTACHED: Final = frozenset(
    "\u0e33\u0eb3\u200c\u200d\uff9e\uff9f\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"
    + "".join(map(chr, range(0xE0020, 0xE0080)))
    + "".join(chr(point) for first, last in _NEW_MARKS for point in range(first, last + 1))
)
_DETACHED: Final = frozenset(
    "\u102b\u102c\u1038\u1062\u1063\u1064\u1067\u1068\u1069\u106a\u106b\u106c\u106d\u1083\u1087\u1088\u1089\u108a\u108b"
    "\u108c\u108f\u109a\u109b\u109c\u1a61\u1a63\u1a64\uaa7b\uaa7d\U00011720\U00011721"
)
_PREPENDED: Final = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\u0d4e")


class Normalizer:
    """Normalizes text by one table; without a table, text stays as it is."""

    def __init__(self, charsmap: bytes) -> None:
        """Read a table.

        Args:
            charsmap: The table; empty for none.

        Raises:
            TokenizerError: It is damaged.
        """
        self._table = _Table(charsmap) if charsmap else None
        self._characters = _Characters(self._entry)

    def __call__(self, text: str) -> str:
        """Return ``text`` normalized."""
        if self._table is None:
            return text
        clusters = _clusters_of(text)
        if clusters is None:
            return text.translate(self._characters)
        parts = clusters.split(text)
        return "".join(
            self._cluster(part) if i % 2 else part.translate(self._characters) for i, part in enumerate(parts)
        )

    def _cluster(self, cluster: str) -> str:
        entry = self._entry(cluster) if len(cluster.encode()) <= _LONGEST_CLUSTER else None
        return cluster.translate(self._characters) if entry is None else entry

    def _entry(self, text: str) -> str | None:
        return None if self._table is None else self._table.shortest(text.encode())


class _Characters(dict[int, str]):
    """Code point to normalized text, for `str.translate`; filled as characters are met."""

    def __init__(self, entry: Callable[[str], str | None]) -> None:
        super().__init__()
        self._entry = entry

    def __missing__(self, code_point: int) -> str:
        entry = self._entry(chr(code_point))
        normalized = self[code_point] = chr(code_point) if entry is None else entry
        return normalized


class _Table:
    """The trie and the replacements."""

    def __init__(self, charsmap: bytes) -> None:
        size = int.from_bytes(charsmap[:_SIZE], "little")
        trie = charsmap[_SIZE : _SIZE + size]
        if len(trie) < max(size, _SIZE) or size % _SIZE:
            raise TokenizerError("the vocabulary's table of normalization is cut off: fetch the vocabulary again")
        self._units: list[int] = np.frombuffer(trie, "<u4").tolist()
        self._replacements = charsmap[_SIZE + size :]

    def shortest(self, key: bytes) -> str | None:
        """The replacement of the shortest entry that ``key`` begins with; None where there is none."""
        units = self._units
        place = _offset(units[0])
        for byte in key:
            place ^= byte
            unit = units[place] if place < len(units) else 0
            if byte == 0 or unit & 0x800000FF != byte:
                return None
            place ^= _offset(unit)
            if unit & 0x100:  # an entry ends here
                return self._replacement(units[place] & 0x7FFFFFFF)
        return None

    def _replacement(self, start: int) -> str:
        try:
            return self._replacements[start : self._replacements.index(b"\0", start)].decode()
        except ValueError as error:
            raise TokenizerError(
                "the vocabulary's table of normalization is damaged: fetch the vocabulary again"
            ) from error


def _offset(unit: int) -> int:
    return (unit >> 10) << ((unit & 0x200) >> 6)


def _clusters_of(text: str) -> re.Pattern[str] | None:
    """A pattern for the clusters of several characters in ``text``; None where it has none."""
    rare = [c for c in set(text) if c >= _FIRST_MARK]
    marks, prepended = _class(filter(_is_mark, rare)), _class(filter(_PREPENDED.__contains__, rare))
    if not marks and not prepended:
        return None
    base = f"[^{_class(filter(_is_control, set(text))) or chr(0)}]"
    alternatives = [f"{base}[{marks}]+"] if marks else []
    if prepended:
        alternatives.insert(0, f"[{prepended}]+{base}" + (f"[{marks}]*" if marks else ""))
    return re.compile(f"({'|'.join(alternatives)})", re.DOTALL)


def _class(characters: Iterable[str]) -> str:
    return "".join(map(re.escape, sorted(characters)))


def _is_mark(character: str) -> bool:
    return (
        unicodedata.category(character) in _MARK_CATEGORIES and character not in _DETACHED
    ) or character in _ATTACHED


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in _CONTROL_CATEGORIES and character not in _ATTACHED | _PREPENDED

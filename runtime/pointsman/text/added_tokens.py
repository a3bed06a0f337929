"""Tokens that are found in a text before it is cut into pieces: special tokens, sentinels, and whatever was added.

What they are and how they match is the reference's (`AddedToken` of tokenizers 0.23): of tokens that begin at one
character the longest matches, from left to right, and matches do not overlap.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, takewhile
from operator import itemgetter
from typing import Final, Self, TypeGuard

from pointsman.errors import TokenizerError

SPACES: Final = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # Unicode's White_Space, in a class
_SPACES_AFTER: Final = re.compile(f"[{SPACES}]*")

# Characters of words, by Unicode's UTS #18: categories, and the circled and squared letters.
_WORD_CATEGORIES: Final = ("L", "M", "Nd", "Nl", "Pc")
_WORD_CHARACTERS: Final = re.compile(
    "[\u200c\u200d\u24b6-\u24e9\U0001f130-\U0001f149\U0001f150-\U0001f169\U0001f170-\U0001f189]"
)

_FLAGS: Final = ("lstrip", "rstrip", "single_word", "normalized", "special")
_SHOWN: Final = 60  # characters of what is no token


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that is one id wherever it stands.

    Attributes:
        content: The token as it is written.
        lstrip: Whether it takes the white space before it.
        rstrip: Whether it takes the white space after it.
        single_word: Whether it matches only where no letter or digit touches it.
        normalized: Whether it is looked for in normalized text, itself normalized.
        special: Whether it is structure rather than text.
    """

    content: str
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False
    special: bool = True

    @classmethod
    def read(cls, value: object, where: str) -> Self:
        """Read a token as JSON has it; what it does not say is false, save that a token of text is normalized.

        Args:
            value: Parsed JSON.
            where: What it was read from, for errors.

        Raises:
            TokenizerError: It is no token.
        """
        fields = value if isinstance(value, dict) else {"content": None}
        content, flags = fields.get("content"), {flag: fields.get(flag) for flag in _FLAGS}
        if not _is_text(content) or any(not isinstance(flag, bool | None) for flag in flags.values()):
            raise TokenizerError(f"{where}: {repr(value)[:_SHOWN]} is no added token; fetch the vocabulary again")
        given = {flag: value for flag, value in flags.items() if value is not None}
        special = given.get("special", False)
        return cls(content, **({"normalized": not special, "special": special} | given))


class Numbering:
    """Gives added tokens their ids as the reference does: that of the piece of the same name, or the next free one.

    Attributes:
        tokens: What was added, by id.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        """Start behind the pieces of a vocabulary, which are in the order of their ids."""
        self.tokens: Final[dict[int, AddedToken]] = {}
        self._ids = {piece: i for i, piece in enumerate(pieces)}
        self._free = len(pieces)

    def add(self, token: AddedToken) -> int | None:
        """Add a token, which may be there already, and return its id; an empty one is passed over.

        Raises:
            TokenizerError: It is there, once as special and once not.
        """
        if not token.content:
            return None
        token_id = self._ids.setdefault(token.content, self._free)
        self._free += token_id == self._free
        self.tokens[token_id] = _merged(self.tokens.get(token_id), token)
        return token_id


class Finder:
    """Finds some added tokens in a text."""

    def __init__(self, tokens: Mapping[int, AddedToken], written: Callable[[str], str] = str) -> None:
        """Prepare the search.

        Args:
            tokens: By id.
            written: Turns a token's content into what it looks like in the text.

        Raises:
            TokenizerError: A token looks like nothing.
        """
        self._tokens: dict[str, tuple[int, AddedToken]] = {}
        for token_id, token in sorted(tokens.items(), key=lambda item: not item[1].special):
            self._tokens.setdefault(written(token.content), (token_id, token))
        if "" in self._tokens:
            _, token = self._tokens[""]
            raise TokenizerError(f"the added token {token.content!r} is empty when it is normalized: remove it")
        self._pattern = re.compile(longest_of(self._tokens)) if self._tokens else None

    def split(self, text: str) -> Iterator[tuple[int | None, str]]:
        """Yield the tokens in ``text`` with their ids, and the text between them with None; nothing that is empty."""
        done = 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            token_id, token = self._tokens[match[0]]
            if token.single_word and _touches_word(text, match):
                continue
            start, stop = _extended(text, match, token, done)
            if done < start:
                yield None, text[done:start]
            yield token_id, text[start:stop]
            done = stop
        if done < len(text):
            yield None, text[done:]


def _is_text(value: object) -> TypeGuard[str]:
    """Whether a value is a string that has an encoding: half a surrogate pair has none."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def longest_of(words: Iterable[str]) -> str:
    """A pattern that matches the longest of ``words`` that stands at a place; it costs no more if they are many."""
    branches = []
    for _, group in groupby(sorted(set(words)), key=itemgetter(0)):
        together = [*group]
        prefix = _common_prefix(together[0], together[-1])
        rests = [word[len(prefix) :] for word in together if word != prefix]
        tail = f"(?:{longest_of(rests)})" if rests else ""
        branches.append(re.escape(prefix) + (f"{tail}?" if tail and prefix in together else tail))
    return "|".join(branches)


def _merged(old: AddedToken | None, new: AddedToken) -> AddedToken:
    """What a token is that is added twice: the first time says where it is looked for, the last how it matches."""
    if old is None or old == new:
        return new
    if not (old.special and new.special):
        raise TokenizerError(
            f"the added token {new.content!r} is defined twice, once as special and once not: remove one of the two"
        )
    return replace(new, normalized=old.normalized)


def _common_prefix(one: str, other: str) -> str:
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _extended(text: str, match: re.Match[str], token: AddedToken, done: int) -> tuple[int, int]:
    """Where a token starts and stops with the white space that it takes, none of it before ``done``."""
    start, stop = match.span()
    if token.lstrip:
        while start > done and _SPACES_AFTER.fullmatch(text, start - 1, start):
            start -= 1
    if token.rstrip:
        after = _SPACES_AFTER.match(text, stop)
        stop = after.end() if after else stop
    return start, stop


def _touches_word(text: str, match: re.Match[str]) -> bool:
    around = text[max(match.start() - 1, 0) : match.start()], text[match.end() : match.end() + 1]
    return any(map(_is_of_a_word, filter(None, around)))


def _is_of_a_word(character: str) -> bool:
    return bool(unicodedata.category(character).startswith(_WORD_CATEGORIES) or _WORD_CHARACTERS.fullmatch(character))

"""The text side of infilling: a text with blanks, and where the generated spans go in it.

A blank is written ``<extra_id_n>``. Text outside the blanks is never altered, and nothing is ever added. A span's own
space survives where it separates words, and is dropped where the template has whitespace already: see `Template.fit`.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Final, Self

from pointsman.errors import TextError
from pointsman.wording import counted

# No leading zeros: the tokenizer takes "<extra_id_007>" for plain text.
_BLANK: Final = re.compile(r"<extra_id_(0|[1-9][0-9]*)>")
# Not whitespace to Python, but T5's normalisation makes a space of each: the next word is written with "▁".
_READ_AS_SPACE: Final = frozenset("\u200b\u200c\u200d\u200e\u200f\u2581\ufeff\ufffd")

_SHOWN: Final = 20  # digits of a blank's number in an error


@dataclass(frozen=True, slots=True)
class Template:
    """A text with blanks.

    Attributes:
        segments: The literal text before, between and after the blanks: one more than there are blanks.
        sentinels: n of each blank's ``<extra_id_n>``, in the order of the text.
    """

    segments: tuple[str, ...]
    sentinels: tuple[int, ...]

    @classmethod
    def parse(cls, text: str, extra_ids: int = 100) -> Self:
        """Split ``text`` at its blanks, which may be numbered in any order, each number once.

        Args:
            text: Text with ``<extra_id_n>`` where something is to be filled in.
            extra_ids: The number of sentinels in the vocabulary.

        Raises:
            TextError: There is no blank, or a blank's number is repeated or beyond the vocabulary.
        """
        parts = _BLANK.split(text)
        _refuse_long_numbers(parts[1::2], extra_ids)
        sentinels = tuple(map(int, parts[1::2]))
        _check_sentinels(sentinels, extra_ids)
        return cls(segments=tuple(parts[::2]), sentinels=sentinels)

    def fill(self, spans: Sequence[str]) -> str:
        """Return the text with ``spans`` in its blanks, every character as it is given.

        Raises:
            TextError: There are more or fewer spans than blanks.
        """
        self._check_count(spans)
        return "".join(chain.from_iterable(zip_longest(self.segments, spans, fillvalue="")))

    def fit(self, spans: Sequence[str]) -> tuple[str, ...]:
        """Return ``spans`` without the spaces that the template has already, for `fill`.

        A span as the model writes it begins with a space if it begins a word. That space is dropped at the start
        of the text and after whitespace (an adjacent span's too) and kept elsewhere: " dog" makes "The dog" of
        both "The <extra_id_0>" and "The<extra_id_0>", and "believ" makes "unbelievable" of "un<extra_id_0>able".
        Likewise a space that ends a span is dropped at the end of the text and before whitespace. One space at
        most is dropped at either side. Whitespace includes the invisible characters that T5 reads as a space.

        Raises:
            TextError: There are more or fewer spans than blanks.
        """
        self._check_count(spans)
        fitted = []
        left = self.segments[0][-1:]  # the character before the span; none at the start of the text
        for index, (span, after) in enumerate(zip(spans, self.segments[1:], strict=True), start=1):
            if not left or _is_space(left):
                span = span.removeprefix(" ")
            if _is_space(after[:1]) or (not after and index == len(spans)):
                span = span.removesuffix(" ")
            fitted.append(span)
            left = (after or span or left)[-1:]
        return tuple(fitted)

    def unfit(self, spans: Sequence[str]) -> tuple[str, ...]:
        """Return ``spans`` as the model writes them, with the spaces that `fit` drops: its inverse.

        A span gets a leading space at the start of the text and after whitespace, where it begins a word; elsewhere it
        begins one only if it has a space already.

        Raises:
            TextError: There are more or fewer spans than blanks.
        """
        self._check_count(spans)
        whole = []
        left = self.segments[0][-1:]
        for span, after in zip(spans, self.segments[1:], strict=True):
            begins_word = not left or _is_space(left)
            whole.append(" " + span if begins_word else span)
            left = (after or span or left)[-1:]
        return tuple(whole)

    def _check_count(self, spans: Sequence[str]) -> None:
        if len(spans) != len(self.sentinels):
            given, blanks = counted(len(spans), "span"), counted(len(self.sentinels), "blank")
            raise TextError(f"{given} for {blanks}: give one for each blank, in order")


def _check_sentinels(sentinels: Sequence[int], extra_ids: int) -> None:
    if not sentinels:
        raise TextError("the text has no blank: write <extra_id_0> where something is to be filled in")
    repeated = next((n for n, count in Counter(sentinels).items() if count > 1), None)
    if repeated is not None:
        raise TextError(f"<extra_id_{repeated}> is there more than once: give every blank a number of its own")
    if max(sentinels) >= extra_ids:
        raise _beyond(str(max(sentinels)), extra_ids)


def _refuse_long_numbers(numbers: Sequence[str], extra_ids: int) -> None:
    """Refuse by their length what `int` may refuse to read."""
    too_long = next((number for number in numbers if len(number) > len(str(extra_ids))), None)
    if too_long is not None:
        raise _beyond(too_long, extra_ids)


def _beyond(number: str, extra_ids: int) -> TextError:
    shown = number if len(number) <= _SHOWN else f"{number[:_SHOWN]}..."
    return TextError(f"<extra_id_{shown}> is beyond the vocabulary: number blanks from 0 to {extra_ids - 1}")


def _is_space(character: str) -> bool:
    return character.isspace() or character in _READ_AS_SPACE

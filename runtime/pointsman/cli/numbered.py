"""Texts and candidates as a person counts them, from 1; Python and JSON count from 0."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from pointsman.errors import PointsmanError

_NUMBERED: Final = re.compile(r"\b(input|candidate|target) (\d+)\b")


@contextmanager
def counted_from_one(texts: Sequence[int], *, given: int, candidates: int = 0) -> Iterator[None]:
    """Let errors of the library name texts and candidates as they stand on the command line.

    Args:
        texts: where each text that the library was handed stands among those that were given, from 0.
        given: how many were given; one alone needs no number.
        candidates: likewise; the library calls their tokens targets.

    Raises:
        PointsmanError: what was raised within, in these words.
    """

    def named(found: re.Match[str]) -> str:
        number = int(found[2])
        if found[1] == "input":
            return "the text" if given == 1 else f"text {texts[number] + 1}"
        return "the candidate" if candidates == 1 else f"candidate {number + 1}"

    try:
        yield
    except PointsmanError as error:
        sentence = _NUMBERED.sub(named, str(error))
        if sentence == str(error):
            raise
        raise type(error)(sentence) from error

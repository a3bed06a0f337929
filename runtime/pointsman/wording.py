"""How names are put into a sentence."""

import difflib
from collections.abc import Collection, Iterable
from typing import Final

_ALIKE: Final = 0.65  # share of letters that two names must have in common for one to be taken for the other


def is_text(name: object) -> bool:
    """Whether a name, such as a path, is text; file systems also allow bytes that are none."""
    try:
        str(name).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def as_text(name: object) -> str:
    r"""A name with what is no text in it escaped: ``caf\xe9``."""
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def first_few(items: Iterable[object], limit: int = 4) -> str:
    """Join the first items with commas and count the rest: ``a, b, c, d and 12 more``."""
    words = [str(item) for item in items]
    if len(words) <= limit:
        return ", ".join(words)
    return f"{', '.join(words[:limit])} and {len(words) - limit} more"


def counted(count: int, noun: str) -> str:
    """A number and its noun, such as `1 block` or `2,000 blocks`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Which of the names that are known was meant, where that can be guessed."""
    found = difflib.get_close_matches(name.lower(), [*known], 1, _ALIKE)
    return found[0] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """What to say of a name that is none of those that are known: the one that it is most like, or all of them."""
    names = [*known]
    meant = nearest(name, names)
    return f"did you mean {meant}?" if meant else f"use {', '.join(names[:-1])} or {names[-1]}"


def install(*extras: str) -> str:
    """How to get what some feature needs: any one of these extras. No registry has the package, a checkout does."""
    commands = [f"pip install '.[{extra}]'" for extra in extras]
    return f"run {', or '.join(commands)} in a checkout of Pointsman"


def no_variant(name: str, there: Collection[str]) -> str:
    """That a bundle has no such variant, which are there, and what makes one that is quantized."""
    meant = [one for one in (f"fused-{name}", f"portable-{name}") if one in there]
    hint = f"; did you mean {' or '.join(meant)}?" if meant else ""
    if not meant and "int" in name:
        hint = "; `pointsman-calib quantize` makes those that are quantized"
    return f"the bundle has no variant {name!r}; it has {', '.join(there)}{hint}"

"""How names are put into a sentence."""

import difflib
from collections.abc import Iterable


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


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """What to say of a name that is none of those that are known: the one that it is most like, or all of them."""
    names = [*known]
    nearest = difflib.get_close_matches(name.lower(), names, 1)
    return f"did you mean {nearest[0]}?" if nearest else f"use {', '.join(names[:-1])} or {names[-1]}"


def install(*extras: str) -> str:
    """How to get what some feature needs: any one of these extras. No registry has the package, a checkout does."""
    commands = [f"pip install '.[{extra}]'" for extra in extras]
    return f"run {', or '.join(commands)} in a checkout of Pointsman"

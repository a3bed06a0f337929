"""How lists of names are put into a sentence."""

from collections.abc import Iterable


def first_few(items: Iterable[object], limit: int = 4) -> str:
    """Join the first items with commas and count the rest: ``a, b, c, d and 12 more``."""
    words = [str(item) for item in items]
    if len(words) <= limit:
        return ", ".join(words)
    return f"{', '.join(words[:limit])} and {len(words) - limit} more"

"""The ranges of shapes that plans are built for."""

from pointsman.bundle import AxisRange, Limits, Profile, Role

# Of the texts that blanks are filled in, and of their spans: a paragraph, and half of what is written into it.
_TYPICAL_SOURCE, _TYPICAL_PAST = 128, 32
_ONE = AxisRange(min=1, opt=1, max=1)


def profiles_for(role: Role, limits: Limits, max_rows: int) -> tuple[Profile, ...]:
    """One profile for a single row and one for up to `max_rows`, over all lengths that requests may have.

    Args:
        role: which graph.
        limits: the bundle's.
        max_rows: most inputs of an encoder call, and most rows (inputs x beams) of a decoder step.
    """
    one = Profile(name="one-row", axes=_axes(role, limits.tokens, _ONE))
    if max_rows == 1:
        return (one,)
    full = AxisRange(min=1, opt=max_rows, max=max_rows)
    return one, Profile(name="full", axes=_axes(role, limits.tokens, full))


def _axes(role: Role, tokens: int, rows: AxisRange) -> dict[str, AxisRange]:
    encoder = {"batch": rows, "source": AxisRange(min=1, opt=min(_TYPICAL_SOURCE, tokens), max=tokens)}
    if role == "encoder":
        return encoder
    # Before the last of `tokens` steps the cache holds one position less; no plan takes an axis that is always empty.
    longest = max(tokens - 1, 1)
    past = AxisRange(min=0, opt=min(_TYPICAL_PAST, longest), max=longest)
    return encoder | {"rows": rows, "positions": _ONE, "past": past}

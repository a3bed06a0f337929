"""The ranges of shapes that plans are built for."""

from pointsman.bundle import AxisRange, Limits, Profile, Role, cache_capacity, names

# Of the texts that blanks are filled in: a paragraph.
_TYPICAL_SOURCE = 128
_ONE = AxisRange(min=1, opt=1, max=1)


def profiles_for(role: Role, limits: Limits, max_rows: int) -> tuple[Profile, ...]:
    """One profile for a single row and one for up to `max_rows`, over all lengths that requests may have.

    A decoder's cache has one capacity: the libraries write into one in place only if that is a number.

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
    encoder = {names.BATCH: rows, names.SOURCE: AxisRange(min=1, opt=min(_TYPICAL_SOURCE, tokens), max=tokens)}
    if role == "encoder":
        return encoder
    most = cache_capacity(tokens)
    capacity = AxisRange(min=most, opt=most, max=most)
    return encoder | {names.ROWS: rows, names.WIDTH: rows, names.CAPACITY: capacity}

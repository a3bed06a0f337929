"""Which of a plan's profiles a request takes, in which shapes, and what to say when none admits it."""

from collections.abc import Mapping, Sequence

from pointsman.bundle import AxisRange, PlanRecord, Profile, names
from pointsman.errors import OptionsError

_MEANINGS = {
    names.BATCH: "inputs at a time",
    names.ROWS: "decoder rows (inputs times beams or samples)",
    names.SOURCE: "tokens in an input",
    names.CAPACITY: "generated tokens",
}
_ROWS = (names.BATCH, names.ROWS)
_SOURCE_STEP = 32  # tokens; inputs are padded to a multiple, so that fewer shapes occur and more steps are replayed


class PlannedShapes:
    """The shapes that a variant's plans were built for; see `Shapes`."""

    def __init__(self, encoder: PlanRecord, decoder: PlanRecord) -> None:
        """Take the records of both plans."""
        self._records = (decoder, encoder)

    def of(self, batch: int, source: int, width: int, room: int) -> dict[str, int]:
        """See `Shapes.of`.

        Raises:
            OptionsError: no profile of a plan admits them.
        """
        longest = min(largest(record.profiles, names.SOURCE) for record in self._records)
        padded = max(source, min(-(-source // _SOURCE_STEP) * _SOURCE_STEP, longest))
        capacity = max(largest(self._records[0].profiles, names.CAPACITY), room)
        sizes = {names.BATCH: batch, names.SOURCE: padded, names.ROWS: batch * width}
        sizes |= {names.WIDTH: width, names.CAPACITY: capacity}
        for record in self._records:
            profile_for(record.profiles, sizes)
        return sizes


def profile_for(profiles: Sequence[Profile], sizes: Mapping[str, int]) -> int:
    """The number of the first profile that admits axes of these sizes; plans list the narrowest first.

    Raises:
        OptionsError: none does; the message names what is too large (or too small) and what to do.
    """
    for number, profile in enumerate(profiles):
        if profile.admits(sizes):
            return number
    lacks = min((_lacks(profile, sizes) for profile in profiles), key=lambda lacks: (len(lacks), [*lacks.values()]))
    raise OptionsError("; ".join([*lacks.values(), _remedy(lacks, sizes)]))


def _lacks(profile: Profile, sizes: Mapping[str, int]) -> dict[str, str]:
    """What a profile cannot take, in words, by axis."""
    return {
        name: f"the engine takes {_range(name, axis)} {_MEANINGS.get(name, name)}, and the request has {size}"
        for name, axis in profile.axes.items()
        # Of the rows of one input there are no more than of all.
        if name != names.WIDTH and (size := sizes.get(name)) is not None and not axis.min <= size <= axis.max
    }


def _range(name: str, axis: AxisRange) -> str:
    """A cache has room for fewer tokens, too."""
    return f"up to {axis.max}" if name == names.CAPACITY else f"{axis.min} to {axis.max}"


def _remedy(lacks: Mapping[str, str], sizes: Mapping[str, int]) -> str:
    """How to get what is lacking: rows are chosen when engines are built, lengths when the bundle is written."""
    builds = []
    if rows := [sizes[name] for name in _ROWS if name in lacks]:
        builds.append(f"`pointsman-export engines --max-rows {max(rows)}`")
    if lacks.keys() - set(_ROWS):
        builds.insert(0, "`pointsman-export bundle --max-tokens` with a higher limit")
    return f"ask for less at a time, or build anew by {' and '.join(builds)}"


def largest(profiles: Sequence[Profile], axis: str) -> int:
    """The largest size of an axis that any profile admits."""
    return max(profile.axes[axis].max for profile in profiles)

"""Which of a plan's profiles a request takes, and what to say when none admits it."""

from collections.abc import Mapping, Sequence

from pointsman.errors import OptionsError
from pointsman.manifest import Profile

_MEANINGS = {
    "batch": "inputs at a time",
    "rows": "decoder rows (inputs times beams or samples)",
    "source": "tokens in an input",
    "past": "generated tokens",
    "positions": "positions a step",
}


def profile_for(profiles: Sequence[Profile], sizes: Mapping[str, int]) -> int:
    """The number of the first profile that admits axes of these sizes; plans list the narrowest first.

    Raises:
        OptionsError: none does; the message names what is too large (or too small) and what to do.
    """
    for number, profile in enumerate(profiles):
        if profile.admits(sizes):
            return number
    raise OptionsError(f"{'; '.join(_too_far(profiles, sizes))}; ask for less at a time, or build larger engines")


def _too_far(profiles: Sequence[Profile], sizes: Mapping[str, int]) -> list[str]:
    """What the profile that lacks least cannot take."""
    return min(([*_lacks(profile, sizes)] for profile in profiles), key=lambda lacks: (len(lacks), lacks))


def _lacks(profile: Profile, sizes: Mapping[str, int]) -> list[str]:
    return [
        f"the engine takes {axis.min} to {axis.max} {_MEANINGS.get(name, name)}, and the request has {sizes[name]}"
        for name, axis in profile.axes.items()
        if name in sizes and not axis.min <= sizes[name] <= axis.max
    ]


def largest(profiles: Sequence[Profile], axis: str) -> int:
    """The largest size of an axis that any profile admits."""
    return max(profile.axes[axis].max for profile in profiles)

"""What Pydantic finds wrong with a request, in plain sentences; never with a value, which may be anything."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

from pydantic import BaseModel

from pointsman.wording import did_you_mean

_MOST_NAMED: Final = 3
_LONGEST_NAME: Final = 40  # characters
_BRANCH: Final = re.compile(r"(constrained-)?(str|bool|int|float)|(list|dict|literal)\[.*")
"""What Pydantic puts into a place for the alternatives of a union."""
_KINDS: Final = {
    "string_type": "text",
    "string_unicode": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "literal_error": "{expected}",
}
_BOUNDS: Final = {
    "missing": "is missing; give it",
    "greater_than_equal": "is too small; use {ge} or more",
    "greater_than": "is too small; use more than {gt}",
    "less_than_equal": "is too large; use {le} at most",
    "less_than": "is too large; use less than {lt}",
    "int_parsing_size": "is too large",
    "too_long": "has too many entries; use {max_length} at most",
    "string_too_long": "is too long; use {max_length} characters at most",
    "string_too_short": "is too short; use {min_length} characters or more",
    "json_invalid": "is no valid JSON ({error})",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        place: The field; empty for all of the body.
        what: What is to be said of it.
        kinds: What it should be, where it is of another kind.
    """

    place: str
    what: str = ""
    kinds: tuple[str, ...] = ()

    def __str__(self) -> str:
        what = f"must be {' or '.join(self.kinds)}" if self.kinds else self.what
        return f"{self.place or 'the body'} {what}"


def problems_of(found: Sequence[Mapping[str, Any]], body: type[BaseModel] | None) -> list[Problem]:
    """What is wrong, in the order in which it was found; the alternatives that a field has count as one.

    Args:
        found: Pydantic's errors, with their contexts.
        body: What the request should be; None where that is not known.
    """
    merged: dict[str, Problem] = {}
    for one in (_problem(error, body) for error in found):
        before = merged.get(one.place)
        if before is None:
            merged[one.place] = one
        elif before.kinds and one.kinds:
            merged[one.place] = Problem(one.place, kinds=(*dict.fromkeys((*before.kinds, *one.kinds)),))
    inner = {place.rpartition(".")[0] for place in merged}
    return [one for place, one in merged.items() if not (place and place in inner)]


def sentence_of(problems: Sequence[Problem]) -> str:
    """A sentence that names the first few."""
    more = f" and {len(problems) - _MOST_NAMED} more" if len(problems) > _MOST_NAMED else ""
    return "; ".join(map(str, problems[:_MOST_NAMED])) + more


def _problem(error: Mapping[str, Any], body: type[BaseModel] | None) -> Problem:
    kind, context = error["type"], {name: _short(value) for name, value in error.get("ctx", {}).items()}
    if kind == "json_invalid":
        return Problem("", _BOUNDS[kind].format(**context)[:200])
    *outer, last = error["loc"] or ("",)
    parts = [str(part)[:_LONGEST_NAME] for part in outer if not _BRANCH.fullmatch(str(part))]
    if kind == "extra_forbidden" or not _BRANCH.fullmatch(str(last)):
        parts.append(str(last)[:_LONGEST_NAME])
    place = ".".join(parts[:4])
    if kind == "extra_forbidden":
        return Problem(place, f"is no field; {did_you_mean(parts[-1], _fields(outer, body))}")
    if kind in _KINDS:
        return Problem(place, kinds=(_KINDS[kind].format(**context),))
    if kind in _BOUNDS:
        return Problem(place, _BOUNDS[kind].format(**context))
    return Problem(place, f"is wrong ({str(error['msg'])[:200]})")


def _short(bound: object) -> object:
    """Whole numbers without a point."""
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def _fields(place: Sequence[object], body: type[BaseModel] | None) -> list[str]:
    """The fields that there are at a place of a body."""
    for part in place:
        if body is not None and part in body.model_fields:
            body = next(_models(body.model_fields[str(part)].annotation), None)
    return [*body.model_fields] if body is not None else []


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    """The models in an annotation, such as that in `list[Model] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)

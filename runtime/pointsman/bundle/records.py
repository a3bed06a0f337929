"""Frozen dataclasses to JSON and back, strictly: every unknown, missing or mistyped field is reported at once.

A field may be missing if it has a default: then it is younger than the file.

Supports what is written: str, int, float, bool, None, `Literal`, unions, `tuple[T, ...]`, `list[T]`, `dict[str, T]`
and nested dataclasses.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

Record = TypeVar("Record")

_SHOWN = 40  # characters of a value that does not fit


def to_json(record: object) -> Any:  # noqa: ANN401 - JSON is any of six types
    """The JSON value of a record."""
    if dataclasses.is_dataclass(record):
        return {field.name: to_json(getattr(record, field.name)) for field in dataclasses.fields(record)}
    if isinstance(record, Mapping):
        return {key: to_json(value) for key, value in record.items()}
    if isinstance(record, (tuple, list)):
        return [to_json(value) for value in record]
    return record


def from_json(kind: type[Record], value: object) -> tuple[Record | None, list[str]]:
    """Read a record.

    Args:
        kind: the dataclass to make.
        value: parsed JSON.

    Returns:
        the record and no problems, or None and a sentence for each problem, led by its place in the document.
    """
    problems: list[str] = []
    record = _read(kind, value, "", problems)
    return (None, [*map(_in_one_line, problems)]) if problems else (record, [])


def _in_one_line(sentence: str) -> str:
    """The sentence with what cannot be printed escaped: keys may be anything."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in sentence)


def _read(kind: Any, value: object, place: str, problems: list[str]) -> Any:  # noqa: ANN401
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, value, place, problems)
    if origin in (typing.Union, types.UnionType):
        return _read_union(arguments, value, place, problems)
    if origin is typing.Literal:
        return _expect(value in arguments, value, place, f"one of {', '.join(map(repr, arguments))}", problems)
    if origin in (tuple, list):
        if not isinstance(value, list):
            return _refuse(value, place, "a list", problems)
        return origin(_read(arguments[0], item, f"{place}[{i}]", problems) for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            return _refuse(value, place, "an object", problems)
        return {key: _read(arguments[1], item, f"{place}.{key}", problems) for key, item in value.items()}
    return _read_scalar(kind, value, place, problems)


def _read_scalar(kind: type, value: object, place: str, problems: list[str]) -> object:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    fits = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    return _expect(fits, value, place, "null" if kind is types.NoneType else kind.__name__, problems)


def _read_union(options: tuple[Any, ...], value: object, place: str, problems: list[str]) -> object:
    attempts: list[list[str]] = []
    for option in options:
        trial: list[str] = []
        result = _read(option, value, place, trial)
        if not trial:
            return result
        attempts.append(trial)
    nearest = max(attempts, key=len)  # of an object, the attempt that could name its fields
    problems.extend(nearest)
    return None


def _read_dataclass(kind: Any, value: object, place: str, problems: list[str]) -> object:  # noqa: ANN401
    if not isinstance(value, dict):
        return _refuse(value, place, "an object", problems)
    hints = _hints(kind)
    fields = {field.name for field in dataclasses.fields(kind)}
    required = {field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING}
    dot = f"{place}." if place else ""
    problems.extend(f"{dot}{name} is unknown" for name in sorted(value.keys() - fields))
    problems.extend(f"{dot}{name} is missing" for name in sorted(required - value.keys()))
    before = len(problems)
    known = {name: _read(hints[name], value[name], dot + name, problems) for name in sorted(fields & value.keys())}
    complete = len(problems) == before and required <= value.keys()
    return kind(**known) if complete else None


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _expect(fits: bool, value: object, place: str, wanted: str, problems: list[str]) -> object:  # noqa: FBT001
    return value if fits else _refuse(value, place, wanted, problems)


def _refuse(value: object, place: str, wanted: str, problems: list[str]) -> object:
    problems.append(f"{place or 'the document'} must be {wanted}, not {repr(value)[:_SHOWN]}")
    return value

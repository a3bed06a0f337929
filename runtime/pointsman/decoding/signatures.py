"""What `help` and tab completion show of methods that take options as keywords."""

import inspect
from collections.abc import Callable
from typing import Any, Final, TypeVar, get_type_hints

from pointsman.decoding.keywords import DecodingFields
from pointsman.decoding.options import DecodingOptions

_Method = TypeVar("_Method", bound=Callable[..., Any])


class _Depends:
    """The default of an option that follows from what is decoded."""

    def __repr__(self) -> str:
        return "..."


_BY_THE_CALL: Final = {"max_new_tokens": _Depends()}


def with_options(method: _Method) -> _Method:
    """Show each option with its default where a method takes `**fields`; what it does stays the same."""
    signature = inspect.signature(method)
    own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    shown = signature.replace(parameters=[*own, *_options()])
    method.__signature__ = shown  # type: ignore[attr-defined] # read by `inspect.signature`
    return method


def _options() -> list[inspect.Parameter]:
    defaults, types = DecodingOptions(), get_type_hints(DecodingFields)
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_BY_THE_CALL.get(name, getattr(defaults, name)),
            annotation=types[name],
        )
        for name in types
    ]

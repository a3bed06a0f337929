"""Options as keywords: what they are called, and what is said of one that is misspelt."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Literal, ParamSpec, TypedDict, TypeVar

from pointsman.errors import OptionsError
from pointsman.wording import did_you_mean

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_AnyClass = TypeVar("_AnyClass", bound=type)


class DecodingFields(TypedDict, total=False):
    """The fields of `DecodingOptions` as keywords."""

    max_new_tokens: int
    min_new_tokens: int
    num_beams: int
    num_return_sequences: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    seed: int | None
    repetition_penalty: float
    no_repeat_ngram_size: int
    constrain: bool | None


def check_names(given: Iterable[str]) -> None:
    """Refuse keywords that are no options.

    Raises:
        OptionsError: Naming the first, and the option that it is most like.
    """
    known = DecodingFields.__annotations__
    for name in given:
        if name not in known:
            raise OptionsError(f"{name} is no option; {did_you_mean(name, known)}")


def with_names_checked(options: _AnyClass) -> _AnyClass:
    """Have a class of options refuse what is no option as `check_names` does, and not with a `TypeError`."""
    initialize = options.__init__  # type: ignore[misc] # of this class and no other

    @functools.wraps(initialize)
    def checked(self: object, *positional: object, **fields: object) -> None:
        check_names(fields)
        initialize(self, *positional, **fields)

    options.__init__ = checked  # type: ignore[misc]
    return options


def without_options(method: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Have a method that takes no options refuse a keyword that it does not know with a sentence."""
    _, *known = inspect.signature(method).parameters

    @functools.wraps(method)
    def checked(*arguments: _Arguments.args, **keywords: _Arguments.kwargs) -> _Result:
        for name in keywords:
            if name not in known:
                raise OptionsError(f"{name} is no argument of {method.__name__}; {did_you_mean(name, known)}")
        return method(*arguments, **keywords)

    return checked

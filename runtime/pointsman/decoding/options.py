"""How to decode: Hugging Face's names and meanings, checked when they are written down."""

import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from math import inf, nan
from numbers import Integral, Real
from typing import Final, Literal, cast

from pointsman.decoding.keywords import DecodingFields, check_names, with_names_checked
from pointsman.errors import OptionsError

_DEFAULT_TOP_K = 50
DEFAULT_ROOM: Final = 32
_OF_SAMPLING: Final = {"temperature": 1.0, "top_k": _DEFAULT_TOP_K, "top_p": 1.0, "seed": None}
# Beyond these, scores leave float32: as quotients, as products, or over length ** penalty for lengths that are in use.
_RANGES = {"temperature": (0.001, 1000.0), "repetition_penalty": (0.01, 100.0), "length_penalty": (-10.0, 10.0)}


@with_names_checked
@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingOptions:
    """How sequences are searched for.

    Attributes:
        max_new_tokens: Most tokens to generate, eos included.
        min_new_tokens: Eos is impossible before this many tokens.
        num_beams: 1 for greedy search or sampling, more for beam search.
        num_return_sequences: Sequences per input: the best beams, or independent samples.
        length_penalty: Scores are divided by length to this power; above 0 favours longer sequences.
        early_stopping: Beam search only. `True`: stop at `num_beams` finished sequences; `False`: also when
            the running beams, at their present length, score below them; `"never"`: only when no running
            beam could overtake them at any length.
        do_sample: Draw tokens instead of taking the likeliest.
        temperature: Sampling only. Logits are divided by it.
        top_k: Sampling only. Draw from this many of the likeliest tokens; 0 draws from all.
        top_p: Sampling only. Draw from the fewest likeliest tokens whose probabilities reach this sum.
        seed: Sampling only. The same seed gives the same samples; `None` gives new ones each time.
        repetition_penalty: Above 1 makes tokens that have occurred less likely, below 1 likelier.
        no_repeat_ngram_size: No sequence of this many tokens occurs twice; 0 allows it.
        constrain: Infilling's output is well-formed: each sentinel once, in order, each span non-empty.
            `None` leaves it to the caller: on where text is filled, off where plain ids are generated.

    Raises:
        OptionsError: Names that are no options, or values out of range or contradicting each other; one line names all
            of them.
    """

    max_new_tokens: int = DEFAULT_ROOM
    min_new_tokens: int = 0
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = _DEFAULT_TOP_K
    top_p: float = 1.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    constrain: bool | None = None

    @classmethod
    def over(cls, defaults: DecodingFields, fields: DecodingFields, *, room: int = DEFAULT_ROOM) -> "DecodingOptions":
        """Options that are given, over others that hold where they say nothing.

        What only sampling uses is left out of the others where nothing is sampled.

        Args:
            defaults: What holds otherwise.
            fields: What is given.
            room: `max_new_tokens` where neither says it; more, if the fewest tokens ask for more.

        Raises:
            OptionsError: One is no option, or together they are out of range or contradict each other.
        """
        check_names(fields)
        merged = {**defaults, **fields}
        if not merged.get("do_sample"):
            merged = {name: value for name, value in merged.items() if name in fields or name not in _OF_SAMPLING}
        fewest = merged.get("min_new_tokens")
        merged.setdefault("max_new_tokens", max(room, fewest) if isinstance(fewest, int) else room)
        try:
            return cls(**cast("DecodingFields", merged))
        except OptionsError as error:
            raise OptionsError(f"{error}{_kept(str(error), defaults, fields)}") from None

    def __post_init__(self) -> None:
        """Refuse what is out of range; only values in range can be asked whether they contradict each other."""
        problems = [*_out_of_range(self)] or [*_contradictions(self)]
        if problems:
            raise OptionsError("; ".join(problems))


def _kept(problem: str, defaults: Iterable[str], given: Container[str]) -> str:
    """Which options of a contradiction nobody gave: they are the checkpoint's, and what is given goes before."""
    named = [name for name in defaults if name not in given and re.search(rf"\b{name}\b", problem)]
    if not named:
        return ""
    return f" ({', '.join(named)}: kept in the bundle from the checkpoint's settings; give another value)"


def _out_of_range(options: DecodingOptions) -> Iterator[str]:
    yield from _counts_out_of_range(options)
    yield from _numbers_out_of_range(options)
    choices: dict[str, tuple[object, ...]] = {
        "do_sample": (True, False),
        "early_stopping": (True, False, "never"),
        "constrain": (True, False, None),
    }
    for name, allowed in choices.items():
        value = getattr(options, name)
        if not any(value is choice or (isinstance(choice, str) and value == choice) for choice in allowed):
            yield f"{name} is {value!r}; use {', '.join(map(repr, allowed[:-1]))} or {allowed[-1]!r}"


def _counts_out_of_range(options: DecodingOptions) -> Iterator[str]:
    smallest = {
        "max_new_tokens": 1,
        "min_new_tokens": 0,
        "num_beams": 1,
        "num_return_sequences": 1,
        "top_k": 0,
        "no_repeat_ngram_size": 0,
        "seed": 0,
    }
    for name, least in smallest.items():
        value = getattr(options, name)
        is_left_out = name == "seed" and value is None
        if not is_left_out and not (is_whole(value) and value >= least):
            yield f"{name} is {value!r}; use a whole number of at least {least}"


def _numbers_out_of_range(options: DecodingOptions) -> Iterator[str]:
    for name, (least, most) in _RANGES.items():
        value = getattr(options, name)
        if not least <= _number(value) <= most:
            yield f"{name} is {value!r}; use a number from {least:g} to {most:g}"
    if not 0 < _number(options.top_p) <= 1:
        yield f"top_p is {options.top_p!r}; use a number above 0 and at most 1"


def is_whole(value: object) -> bool:
    """Whether it is a whole number of any type; `True` and `False` are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _number(value: object) -> float:
    """The value as a float; NaN, which is in no range, if it is not a number (`True` and `False` are not)."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return nan
    try:
        return float(value)
    except OverflowError:
        return inf


def _contradictions(options: DecodingOptions) -> Iterator[str]:
    if options.min_new_tokens > options.max_new_tokens:
        yield (
            f"min_new_tokens {options.min_new_tokens} is above max_new_tokens {options.max_new_tokens}; "
            "lower the one or raise the other"
        )
    if options.do_sample and options.num_beams > 1:
        yield f"do_sample cannot be combined with num_beams {options.num_beams}; drop one of the two"
    if not options.do_sample:
        yield from _contradictions_without_sampling(options)


def _contradictions_without_sampling(options: DecodingOptions) -> Iterator[str]:
    if options.num_return_sequences > options.num_beams:
        yield (
            f"num_return_sequences {options.num_return_sequences} is above num_beams {options.num_beams}; "
            "raise num_beams, or sample with do_sample=True"
        )
    unused = [name for name, default in _OF_SAMPLING.items() if getattr(options, name) != default]
    if unused:
        yield f"{', '.join(unused)} without do_sample would change nothing; add do_sample=True or leave out"

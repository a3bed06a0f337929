"""What is asked for, checked once: texts and options to ids, room and batches.

What passes here is not checked again on its way to the engine.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, TypeVar, cast

from pointsman.decoding import DecodingFields, DecodingOptions, check_room
from pointsman.decoding.options import is_whole
from pointsman.errors import OptionsError, TextError
from pointsman.model import SwitchModel
from pointsman.text.template import Template
from pointsman.text.tokenizer import Tokenizer

TEXTS_AT_ONCE: Final = 32
"""Of many texts, where nothing else is said."""
Answer = TypeVar("Answer")
_LEAST_ROOM: Final = 32
_ROOM_PER_BLANK: Final = 8  # a sentinel and a span; T5 was trained on spans of 3 tokens on average
_ROOM_TO_END: Final = 2  # the closing sentinel and eos


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts to fill together.

    Attributes:
        first: The number of the first among all texts of the request.
        templates: The texts.
        ids: Theirs.
        options: What they share.
    """

    first: int
    templates: Sequence[Template]
    ids: Sequence[list[int]]
    options: DecodingOptions


def templates_of(texts: Sequence[str], extra_ids: int) -> list[Template]:
    """The texts' templates.

    Raises:
        TextError: There are no texts but something else, or one has no blanks or bad ones; of several, it is numbered.
    """
    check_list(texts, "texts")
    templates = []
    for number, text in enumerate(texts):
        try:
            if not isinstance(text, str):
                raise TextError(f"a text must be a string, not {type(text).__name__}; decode or convert it")
            templates.append(Template.parse(text, extra_ids))
        except TextError as error:
            raise TextError(f"input {number}: {error}" if len(texts) > 1 else str(error)) from error
    return templates


def check_list(several: object, what: str) -> None:
    """Refuse what is read once or in no order, and one text where several are filled.

    Args:
        several: What is to be a list.
        what: It holds.

    Raises:
        TextError: It is none.
    """
    if isinstance(several, str | bytes) or not isinstance(several, Sequence):
        one = ", or use infill for one" if what == "texts" else ""
        raise TextError(f"the {what} are a {type(several).__name__}; give a list of {what}{one}")


def check_spans(spans: object) -> None:
    """Refuse spans of a candidate that are no list of strings.

    Raises:
        TextError: They are something else.
    """
    if isinstance(spans, str):
        raise TextError("the spans are one string; give a list of them, one for each blank")
    check_list(spans, "spans")
    others = [type(span).__name__ for span in cast("Sequence[object]", spans) if not isinstance(span, str)]
    if others:
        raise TextError(f"a span must be a string, not {others[0]}; decode or convert it")


def check_requests(requests: object, batch_size: int) -> None:
    """Refuse what is no list of requests, before any is filled.

    Raises:
        TextError: It is something else, or holds something else.
        OptionsError: `batch_size` is below 1.
    """
    check_list(requests, "requests")
    others = [type(one).__name__ for one in cast("Sequence[object]", requests) if not isinstance(one, Request)]
    if others:
        raise TextError(f"a request is a {others[0]}; make it with `request`, or use infill_in_batches")
    check_batch_size(batch_size)


def check_batch_size(batch_size: int) -> None:
    """Refuse what is no number of texts.

    Raises:
        OptionsError: It is below 1, or no whole number.
    """
    if not (is_whole(batch_size) and batch_size >= 1):
        raise OptionsError(f"batch_size is {batch_size!r}; use a whole number of at least 1")


def check_one(text: object, method: str) -> None:
    """Refuse several texts where one is filled.

    Args:
        text: What is to be one.
        method: Which was asked to fill it.

    Raises:
        TextError: There are several.
    """
    if isinstance(text, Iterable) and not isinstance(text, str | bytes):
        raise TextError(f"{method} takes one text, and this is a {type(text).__name__}; use infill_batch for several")


def options_for(
    template: Template, options: DecodingOptions | None, fields: DecodingFields, model: SwitchModel
) -> DecodingOptions:
    """The options that were given, in one of the two ways; where they say nothing the bundle does, or the blanks.

    Raises:
        OptionsError: They were given in both ways, contradict each other or the bundle's, or leave too little room.
    """
    if options is not None:
        return model.options(options, fields)
    room = max(_LEAST_ROOM, _ROOM_PER_BLANK * len(template.sentinels) + _ROOM_TO_END)
    return model.options(None, fields, room=room)


@dataclass(frozen=True, slots=True)
class Request:
    """A text that has been checked, with how it is to be filled.

    Attributes:
        number: Among the texts that it came with: samples follow from it, and errors name it.
        template: The text.
        ids: Its own.
        options: How to decode.
    """

    number: int
    template: Template
    ids: list[int]
    options: DecodingOptions


def request_of(
    model: SwitchModel,
    tokenizer: Tokenizer,
    text: str,
    options: DecodingOptions | None,
    fields: DecodingFields,
    *,
    number: int = 0,
) -> Request:
    """A text and its options, checked.

    Raises:
        TextError: It has no blanks, bad ones, or too many tokens.
        OptionsError: The options ask for what cannot be.
    """
    if not (is_whole(number) and number >= 0):
        raise OptionsError(f"number is {number!r}; use a whole number of at least 0")
    (batch,) = batches_of(model, tokenizer, [text], 1, options, fields)
    return Request(number, batch.templates[0], batch.ids[0], batch.options)


def grouped(requests: Sequence[Request], batch_size: int) -> Iterator[list[int]]:
    """Places of requests to fill together: of one set of options, and of about one length, so that little is padding.

    Those that are sampled stay beside their neighbours, since their random streams follow from where they are.
    """
    of_options: dict[DecodingOptions, list[int]] = defaultdict(list)
    for place, request in enumerate(requests):
        of_options[request.options].append(place)
    for options, group in of_options.items():
        if not options.do_sample:
            group.sort(key=lambda place: len(requests[place].ids))
        numbers = [requests[place].number for place in group]
        start = 0
        for end in range(1, len(group) + 1):
            follows = end < len(group) and (not options.do_sample or numbers[end] == numbers[end - 1] + 1)
            if end - start == batch_size or not follows:
                yield group[start:end]
                start = end


def in_order(groups: Iterable[Mapping[int, Answer]]) -> Iterator[Answer]:
    """What comes for places in any order, in their order from 0, each as soon as it and those before it are there."""
    there: dict[int, Answer] = {}
    given = 0
    for group in groups:
        there |= group
        while given in there:
            yield there.pop(given)
            given += 1


def batches_of(
    model: SwitchModel,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    batch_size: int,
    options: DecodingOptions | None,
    fields: DecodingFields,
) -> list[Batch]:
    """Everything that is asked for: neighbours that have the same options, so many at a time.

    Raises:
        TextError: A text has no blanks, bad ones, or too many tokens.
        OptionsError: The options ask for what cannot be, or `batch_size` is below 1.
    """
    check_batch_size(batch_size)
    templates = templates_of(texts, len(tokenizer.sentinel_ids))
    ids = [tokenizer.encode(text) for text in texts]
    if ids:
        model.check_ids(ids, "input")
    chosen = [options_for(template, options, fields, model) for template in templates]
    for number, (template, own) in enumerate(zip(templates, chosen, strict=True)):
        if own.constrain is not False:
            check_room(len(template.sentinels), own.max_new_tokens, number)
    batches = [Batch(part.start, templates[part], ids[part], chosen[part.start]) for part in _parts(chosen, batch_size)]
    for batch in batches:
        model.check_options(batch.options, len(batch.ids))
    return batches


def _parts(options: Sequence[DecodingOptions], batch_size: int) -> Iterator[slice]:
    start = 0
    for _, group in groupby(options):
        end = start + len([*group])
        for first in range(start, end, batch_size):
            yield slice(first, min(first + batch_size, end))
        start = end

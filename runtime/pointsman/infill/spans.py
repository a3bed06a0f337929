"""From generated ids to spans.

The model answers with each blank's sentinel followed by the ids of its span, `<extra_id_0> cute dog <extra_id_1> the
<extra_id_2> </s>` (Raffel et al. 2020, arXiv:1910.10683, section 3.1.4). Each span is turned into text by itself, since
how a text of words and sentinels together is spaced differs between tokenizers.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from pointsman.decoding import is_forced
from pointsman.infill.results import Span, SpanState
from pointsman.text.template import Template
from pointsman.text.tokenizer import Tokenizer


@dataclass(slots=True)
class _Part:
    """One blank's span so far.

    Attributes:
        sentinel: Id of the blank's sentinel.
        is_cut: Whether it ended because nothing else could follow it.
        text: What the tokenizer makes of the ids: piece after piece, so that it only grows.
    """

    sentinel: int
    is_found: bool = False
    is_cut: bool = False
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str = ""


class SpanReader:
    """Takes an answer apart as it comes.

    A span runs from its sentinel to the next sentinel, pad or end. What an unconstrained model may get wrong does
    not shift the other spans: order does not matter, of a repeated sentinel the first counts, and sentinels that the
    text does not use, ids before the first sentinel and ids after the end are passed over.
    """

    def __init__(
        self, template: Template, tokenizer: Tokenizer, ends: Collection[int], *, room: int | None = None
    ) -> None:
        """Begin an answer.

        Args:
            template: The text.
            tokenizer: The model's.
            ends: Ids that end an answer.
            room: Most tokens of it, where the constraint sees to it that every blank has some; else None.
        """
        self._template, self._tokenizer, self._ends = template, tokenizer, ends
        self._room, self._read = room, 0
        self._parts = [_Part(tokenizer.sentinel_id(index)) for index in template.sentinels]
        self._ending = frozenset((tokenizer.pad_id, *ends, *tokenizer.sentinel_ids))
        self._open: _Part | None = None
        self._is_over = False
        self._reported: dict[int, tuple[int, str, SpanState]] = {}

    def read(self, token_id: int, logprob: float) -> None:
        """Take the next token."""
        if token_id in self._ending:
            if self._open is not None and not self._is_over:
                self._open.is_cut = self._is_forced()
            self._open = None if self._is_over else self._begun(token_id)
            self._is_over |= token_id in self._ends
        elif self._open is not None:
            self._open.token_ids.append(token_id)
            self._open.logprobs.append(logprob)
            self._open.text += self._tokenizer.decode_span([token_id])
        self._read += 1

    def _is_forced(self) -> bool:
        """Whether nothing else than what ends a span could come next."""
        missing = sum(not part.is_found for part in self._parts)
        return self._room is not None and is_forced(self._room, self._read, missing)

    def _begun(self, token_id: int) -> _Part | None:
        """The span that a sentinel begins; none if it is no blank's, or not the first of its kind."""
        begun = next((part for part in self._parts if part.sentinel == token_id and not part.is_found), None)
        if begun is not None:
            begun.is_found = True
        return begun

    def spans(self, *, ended: bool) -> tuple[Span, ...]:
        """A span for every blank, in the order of the text, out of what was read.

        Args:
            ended: Whether nothing follows.
        """
        return tuple(self._span(number, text, ended=ended) for number, text in enumerate(self._texts()))

    def changes(self, *, ended: bool) -> Iterator[Span]:
        """The spans that are not as they were at the last call; of those that are missing, at the end alone."""
        for number, text in enumerate(self._texts()):
            part, state = self._parts[number], self._state(number, ended=ended)
            shown = (len(part.token_ids), text, state)
            if shown != self._reported.get(number) and (ended or state != "missing"):
                self._reported[number] = shown
                yield self._span(number, text, ended=ended)

    def _texts(self) -> tuple[str, ...]:
        return self._template.fit([part.text for part in self._parts])

    def _span(self, number: int, text: str, *, ended: bool) -> Span:
        part = self._parts[number]
        return Span(
            index=self._template.sentinels[number],
            text=text,
            score=sum(part.logprobs, 0.0),
            token_ids=tuple(part.token_ids),
            state=self._state(number, ended=ended),
        )

    def _state(self, number: int, *, ended: bool) -> SpanState:
        part = self._parts[number]
        if not part.is_found:
            return "missing"
        if part is not self._open:
            return "cut" if part.is_cut else "complete"
        return "cut" if ended else "growing"

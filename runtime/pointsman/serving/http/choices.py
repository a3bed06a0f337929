"""From generations to OpenAI's choices: their text, where it is cut, and their tokens' places in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pointsman.decoding import Generation
from pointsman.infill import Fill, Infiller, Span
from pointsman.infill.requests import Request


@dataclass(frozen=True, slots=True)
class Choice:
    """One completion.

    Attributes:
        text: The filled text; or the span alone, where it stands between a prompt and a suffix.
        finish_reason: `stop`: the model ended it, or a stop sequence; `length`: there was no room for more.
        tokens: Of the spans, as text.
        token_logprobs: Theirs.
        text_offset: The character of `text` where each begins.
    """

    text: str
    finish_reason: Literal["stop", "length"]
    tokens: list[str]
    token_logprobs: list[float]
    text_offset: list[int]


def choice_of(
    infiller: Infiller, request: Request, generation: Generation, stops: Sequence[str], *, is_between: bool
) -> Choice:
    """The choice that a generation comes to.

    Args:
        infiller: Of the model.
        request: What was filled.
        generation: With what.
        stops: Sequences before which the text is cut.
        is_between: Whether only the span is wanted.
    """
    (fill,) = infiller.fills(request, [generation])
    tokens, logprobs, offsets = _tokens(infiller, request, fill, generation, is_between=is_between)
    text = fill.spans[0].text if is_between else fill.text
    cut = cut_at(text, stops)
    kept = sum(offset < cut for offset in offsets) if cut < len(text) else len(offsets)
    is_ended = generation.finish_reason == "eos" or cut < len(text)
    return Choice(text[:cut], "stop" if is_ended else "length", tokens[:kept], logprobs[:kept], offsets[:kept])


def cut_at(text: str, stops: Sequence[str]) -> int:
    """Where the first stop sequence begins; the text's length if none is in it."""
    return min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))


def _tokens(
    infiller: Infiller, request: Request, fill: Fill, generation: Generation, *, is_between: bool
) -> tuple[list[str], list[float], list[int]]:
    """The spans' tokens as text, their log-probabilities, and where each begins."""
    tokenizer = infiller.tokenizer
    logprobs = iter(span_logprobs(infiller, generation))
    tokens: list[str] = []
    offsets: list[int] = []
    place = 0
    for segment, span in zip(request.template.segments, fill.spans, strict=False):
        place += 0 if is_between else len(segment)
        pieces = [tokenizer.decode_span([token]) for token in span.token_ids]
        whole = "".join(pieces)
        within = -1 if whole.startswith(" ") and not span.text.startswith(" ") else 0
        for piece in pieces:
            tokens.append(piece)
            offsets.append(place + min(max(0, within), len(span.text)))
            within += len(piece)
        place += len(span.text)
    return tokens, [logprob for _, logprob in zip(tokens, logprobs, strict=False)], offsets


def span_logprobs(infiller: Infiller, generation: Generation) -> list[float]:
    """Log-probabilities of the tokens that are neither sentinel nor end; under the constraint those of the spans."""
    tokenizer = infiller.tokenizer
    structure = {*tokenizer.sentinel_ids, tokenizer.pad_id, *infiller.model.special_tokens.eos_ids}
    pairs = zip(generation.token_ids, generation.token_logprobs, strict=True)
    return [logprob for token, logprob in pairs if token not in structure]


class TextSoFar:
    """The text of a choice as it grows: what is added at its end, never what may still be cut."""

    def __init__(self, request: Request, stops: Sequence[str], *, is_between: bool) -> None:
        self._template, self._is_between, self._stops = request.template, is_between, stops
        self._spans: dict[int, Span] = {}
        self._shown = 0
        self._held = max(map(len, stops), default=1) - 1

    def grown(self, span: Span) -> str:
        """What a span that has grown adds."""
        self._spans[span.index] = span
        text = self._text()
        cut = cut_at(text, self._stops)
        safe = cut if cut < len(text) else max(0, len(text) - self._held)
        added = text[self._shown : safe]
        self._shown = max(self._shown, safe)
        return added

    def rest(self, text: str) -> str:
        """What has not been shown of the whole text."""
        return text[self._shown :]

    def _text(self) -> str:
        if self._is_between:
            return "".join(span.text for span in self._spans.values())
        text = ""
        for segment, index in zip(self._template.segments, self._template.sentinels, strict=False):
            text += segment
            span = self._spans.get(index)
            if span is None:
                break
            text += span.text
            if span.state == "growing":
                break
        else:
            text += self._template.segments[-1]
        return text

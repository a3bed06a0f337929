"""Text with blanks in, texts with spans out.

A text's blanks go to the model as they are written, whatever their numbers and order; the answer is taken apart by
its ids, each span is detokenised by itself, and the text outside the blanks comes back character for character.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final, Literal, Self, TypedDict, Unpack

from pointsman.bundle import Manifest, names, verify_files
from pointsman.decoding import DecodingOptions, Generation, SentinelConstraint, TokenEvent, check_sentinels
from pointsman.decoding.options import is_whole
from pointsman.errors import OptionsError, TextError
from pointsman.model import SwitchModel, checked_options
from pointsman.text.template import Template, find_spans
from pointsman.text.tokenizer import Tokenizer

SpanState = Literal["growing", "complete", "cut", "missing"]
"""`growing`: more may follow (streams only). `complete`: something follows it. `cut`: the output ended in it for want
of room. `missing`: the model never came to it (only without the constraint)."""

_LEAST_ROOM: Final = 32
_ROOM_PER_BLANK: Final = 8  # a sentinel and a span; T5 was trained on spans of 3 tokens on average
_ROOM_TO_END: Final = 2  # the closing sentinel and eos


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


@dataclass(frozen=True, slots=True)
class Span:
    """What the model put into one blank.

    Attributes:
        index: n of the blank's `<extra_id_n>`.
        text: As it stands in the filled text: without the spaces that the text has already.
        score: Summed natural log-probabilities of the span's tokens, its sentinels not counted; 0 of no tokens.
        token_ids: The span's tokens, sentinels not counted.
        state: Whether the span is whole.
    """

    index: int
    text: str
    score: float
    token_ids: tuple[int, ...]
    state: SpanState


@dataclass(frozen=True, slots=True)
class Fill:
    """A text with its blanks filled.

    Attributes:
        text: The filled text.
        score: Of the whole output, sentinels included, as `Generation.score`: log-probabilities over its length to
            the power of `length_penalty`.
        spans: One for every blank, in the order of the text.
    """

    text: str
    score: float
    spans: tuple[Span, ...]


class Infiller:
    """Fills blanks, scores candidates for them, and streams spans as they grow.

    Options are keywords named like the fields of `DecodingOptions`, or one `DecodingOptions`. Unless `constrain` is
    false, every blank is filled, and with text only. `max_new_tokens`, if neither is given, is 8 for each blank and 2
    to end with, at least 32, and at most what the bundle allows.

    Attributes:
        model: The model; `model.choice` says which variant and device run, and why.
        tokenizer: The bundle's.
    """

    def __init__(self, model: SwitchModel, tokenizer: Tokenizer) -> None:
        """Put a model and its tokenizer together.

        Raises:
            TokenizerError: They do not belong together.
        """
        tokenizer.check_model(model.manifest.architecture)
        self.model, self.tokenizer = model, tokenizer

    @classmethod
    def load(
        cls,
        bundle: str | Path,
        device: str = "auto",
        variant: str = "auto",
        *,
        engine: str = "auto",
        threads: int | None = None,
        verify: bool = True,
    ) -> Self:
        """Load a bundle; arguments and errors are those of `SwitchModel.load`.

        Raises:
            TokenizerError: The bundle's vocabulary is missing or of another size than its embedding.
        """
        model = SwitchModel.load(bundle, device, variant, engine=engine, threads=threads, verify=verify)
        return cls(model, _load_tokenizer(Path(bundle), model.manifest, verify=verify))

    def infill(self, text: str, options: DecodingOptions | None = None, **fields: Unpack[DecodingFields]) -> list[Fill]:
        """Fill the blanks of a text.

        Args:
            text: With `<extra_id_n>` wherever something is missing: any numbers, in any order, each once.
            options: How to decode.
            fields: The same as keywords.

        Returns:
            `num_return_sequences` fills, best first. Two may read alike, where the same text was spelled with
            different tokens. Beam search gives fewer where fewer are possible.

        Raises:
            TextError: The text has no blanks, bad ones, or too many tokens.
            OptionsError: The options contradict each other or leave too little room.
        """
        return self.infill_batch([text], options, **fields)[0]

    def infill_batch(
        self, texts: Sequence[str], options: DecodingOptions | None = None, **fields: Unpack[DecodingFields]
    ) -> list[list[Fill]]:
        """Fill several texts at once, as `infill` does one.

        Returns:
            For each text its fills, best first.
        """
        return list(self.infill_in_batches(texts, sys.maxsize, options, **fields))

    def infill_in_batches(
        self,
        texts: Sequence[str],
        batch_size: int,
        options: DecodingOptions | None = None,
        **fields: Unpack[DecodingFields],
    ) -> Iterator[list[Fill]]:
        """Fill many texts, some at a time, and give the fills of each as soon as its batch is done.

        Args:
            texts: As for `infill`; errors number them from 0.
            batch_size: The most texts to fill at once. Only neighbours with the same room are filled together.
            options: As for `infill`.
            fields: As for `infill`.

        Returns:
            An iterator over the fills of each text, best first; they do not depend on the other texts, and samples
            only on the number of their own.

        Raises:
            TextError: As for `infill`, at once for all texts.
            OptionsError: As for `infill`; also where `batch_size` is below 1.
        """
        if not (is_whole(batch_size) and batch_size >= 1):
            raise OptionsError(f"batch_size is {batch_size!r}; use a whole number of at least 1")
        templates, ids = self._templates(texts), self._encode(texts)
        if ids:
            self.model.check(ids, "input")
        batches = [*self._batches(templates, batch_size, options, fields)]
        return self._filled(templates, ids, batches)

    def _batches(
        self, templates: Sequence[Template], batch_size: int, options: DecodingOptions | None, fields: DecodingFields
    ) -> Iterator[tuple[slice, DecodingOptions]]:
        """Neighbours that have the same options, so many at a time."""
        start = 0
        for shared, group in groupby(self._options(template, options, fields) for template in templates):
            end = start + len([*group])
            if shared.constrain is not False:
                blanks = [self._blanks(template) for template in templates[start:end]]
                check_sentinels(blanks, shared.max_new_tokens, first_input=start)
            for first in range(start, end, batch_size):
                yield slice(first, min(first + batch_size, end)), shared
            start = end

    def _filled(
        self, templates: Sequence[Template], ids: Sequence[list[int]], batches: Iterable[tuple[slice, DecodingOptions]]
    ) -> Iterator[list[Fill]]:
        for part, options in batches:
            constraint = self._constraint(templates[part], options)
            generations = self.model.generate(ids[part], options, constraint=constraint, first_input=part.start)
            for template, of_text in zip(templates[part], generations, strict=True):
                yield sorted((self._fill(template, one) for one in of_text), key=_score, reverse=True)

    def stream(
        self, text: str, options: DecodingOptions | None = None, **fields: Unpack[DecodingFields]
    ) -> Iterator[Span]:
        """Fill the blanks of a text and tell of every span as it grows.

        Args:
            text: As for `infill`.
            options: As for `infill`, for one fill without beams.
            fields: As for `infill`.

        Returns:
            An iterator over spans so far. Each event replaces the one before it of the same `index`; the last of
            each is what `infill` gives. Under the constraint, a span's text only ever grows at its end.

        Raises:
            TextError: As for `infill`, at once.
            OptionsError: As for `infill`, at once; also where beams or several fills are asked for.
        """
        templates = self._templates([text])
        options = self._options(templates[0], options, fields)
        if options.num_return_sequences > 1:
            raise OptionsError(
                f"num_return_sequences {options.num_return_sequences} cannot be streamed; use 1, or infill"
            )
        events = self.model.stream(self._encode([text]), options, constraint=self._constraint(templates, options))
        return self._grow(templates[0], events)

    def score(self, text: str, candidates: Sequence[Sequence[str]]) -> list[float]:
        """Log-likelihoods of given spans, all candidates in one pass.

        The text is encoded once. Each candidate is scored as the target that T5 would have been trained on:
        `<extra_id_0> man <extra_id_1> the <extra_id_2> </s>` with the text's own sentinels; the closing one is left
        out where the vocabulary ends or the text uses it. As in training, an expert that is full drops tokens, which
        generating token by token never makes it do.

        Args:
            text: As for `infill`.
            candidates: For each candidate one span per blank, in the order of the text, as it would stand there.

        Returns:
            For each candidate the summed natural log-probability of its target, sentinels and eos included; the
            highest is the likeliest.

        Raises:
            TextError: As for `infill`, or a candidate has too few spans, too many, or one that is not plain text.
        """
        (template,) = self._templates([text])
        targets = [self._target(template, number, spans) for number, spans in enumerate(candidates)]
        if not targets:
            return []
        return [float(logprobs.sum()) for logprobs in self.model.score(self._encode([text]), targets)]

    def _templates(self, texts: Sequence[str]) -> list[Template]:
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            raise TextError(f"the texts are a {type(texts).__name__}; give a list of texts, or use infill for one")
        templates = []
        for number, text in enumerate(texts):
            try:
                if not isinstance(text, str):
                    raise TextError(f"a text must be a string, not {type(text).__name__}; decode or convert it")
                templates.append(Template.parse(text, len(self.tokenizer.sentinel_ids)))
            except TextError as error:
                raise TextError(f"input {number}: {error}" if len(texts) > 1 else str(error)) from error
        return templates

    def _options(self, template: Template, options: DecodingOptions | None, fields: DecodingFields) -> DecodingOptions:
        if options is None:
            room = max(_LEAST_ROOM, _ROOM_PER_BLANK * len(template.sentinels) + _ROOM_TO_END)
            defaults: DecodingFields = {"max_new_tokens": min(room, self.model.manifest.limits.tokens)}
            return DecodingOptions(**(defaults | fields))
        if fields:
            raise OptionsError(f"options and {', '.join(fields)} are both given; put all into one of the two")
        return checked_options(options)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.tokenizer.encode(text) for text in texts]

    def _constraint(self, templates: Sequence[Template], options: DecodingOptions) -> SentinelConstraint | None:
        if options.constrain is False:
            return None
        tokenizer = self.tokenizer
        without_text = range(tokenizer.vocab_size, self.model.manifest.architecture.vocab_size)
        return SentinelConstraint(
            [self._blanks(template) for template in templates],
            all_sentinels=tokenizer.sentinel_ids[::-1],
            tokens=self.model.special_tokens,
            options=options,
            forbidden=[tokenizer.unk_id, *without_text],
            white_space=tokenizer.white_space_ids,
        )

    def _blanks(self, template: Template) -> list[int]:
        """The ids of a text's sentinels, in its order."""
        return [self.tokenizer.sentinel_id(index) for index in template.sentinels]

    def _fill(self, template: Template, generation: Generation) -> Fill:
        spans = self._spans(template, generation.token_ids, generation.token_logprobs, ended=True)
        return Fill(template.fill([span.text for span in spans]), generation.score, spans)

    def _spans(
        self, template: Template, token_ids: Sequence[int], logprobs: Sequence[float], *, ended: bool
    ) -> tuple[Span, ...]:
        """A span for every blank, out of what was generated, or has been so far."""
        tokenizer = self.tokenizer
        places = find_spans(
            token_ids,
            self._blanks(template),
            sentinel_ids=tokenizer.sentinel_ids,
            pad_id=tokenizer.pad_id,
            eos_id=tokenizer.eos_id,
        )
        ids = [tuple(token_ids[place]) if place else () for place in places]
        texts = template.fit([tokenizer.decode_span(of_span) for of_span in ids])
        return tuple(
            Span(
                index=index,
                text=text,
                score=sum(logprobs[place], 0.0) if place else 0.0,
                token_ids=of_span,
                state=_state(place, len(token_ids), ended=ended),
            )
            for index, text, of_span, place in zip(template.sentinels, texts, ids, places, strict=True)
        )

    def _grow(self, template: Template, events: Iterator[tuple[TokenEvent, ...]]) -> Iterator[Span]:
        token_ids: list[int] = []
        logprobs: list[float] = []
        told: dict[int, Span] = {}
        for (event,) in events:
            token_ids.append(event.token_id)
            logprobs.append(event.logprob)
            ended = event.finish_reason is not None
            for span in self._spans(template, token_ids, logprobs, ended=ended):
                if span != told.get(span.index) and (ended or span.state != "missing"):
                    told[span.index] = span
                    yield span

    def _target(self, template: Template, number: int, spans: Sequence[str]) -> list[int]:
        """What the model would say if it gave these spans."""
        tokenizer = self.tokenizer
        try:
            if isinstance(spans, str):
                raise TextError("the spans are one string; give a list of them, one for each blank")
            of_spans = [tokenizer.encode_span(span) for span in template.unfit(spans)]
        except TextError as error:
            raise TextError(f"candidate {number}: {error}") from error
        closing = template.sentinels[-1] + 1
        has_closing = closing < len(tokenizer.sentinel_ids) and closing not in template.sentinels
        pairs = zip(self._blanks(template), of_spans, strict=True)
        ids = [token for sentinel, of_span in pairs for token in (sentinel, *of_span)]
        return [*ids, *([tokenizer.sentinel_id(closing)] if has_closing else []), tokenizer.eos_id]


def _state(place: slice | None, length: int, *, ended: bool) -> SpanState:
    if place is None:
        return "missing"
    if place.stop < length:
        return "complete"
    return "cut" if ended else "growing"


def _score(fill: Fill) -> float:
    return fill.score


def _load_tokenizer(bundle: Path, manifest: Manifest, *, verify: bool) -> Tokenizer:
    if verify:
        verify_files(bundle, manifest.tokenizer)
    return Tokenizer.load(bundle / names.TOKENIZER, extra_ids=manifest.extra_ids)

"""Filling blanks, streaming spans, scoring candidates."""

import sys
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self, Unpack

from pointsman.backends.choice import AnyEngine, Device
from pointsman.bundle import Manifest, names, verify_files
from pointsman.decoding import (
    DecodingFields,
    DecodingOptions,
    Generation,
    SentinelConstraint,
    TokenEvent,
    with_options,
    without_options,
)
from pointsman.errors import OptionsError, TextError
from pointsman.infill.requests import (
    TEXTS_AT_ONCE,
    Batch,
    Request,
    batches_of,
    check_list,
    check_one,
    check_requests,
    check_spans,
    grouped,
    in_order,
    request_of,
    templates_of,
)
from pointsman.infill.results import Fill, Span
from pointsman.infill.spans import SpanReader
from pointsman.model import SwitchModel
from pointsman.text.template import Template
from pointsman.text.tokenizer import Tokenizer


class Infiller:
    """Fills blanks, scores candidates for them, and streams spans as they grow.

    Options are keywords named like the fields of `DecodingOptions`, or one `DecodingOptions`, which then says all.
    Where keywords say nothing, the settings of the checkpoint hold that the bundle has kept (`pointsman inspect` shows
    them). Unless `constrain` is false, every blank is filled, and with text only. `max_new_tokens`, if nothing says it,
    is 8 for each blank and 2 to end with, at least 32, and at most what the bundle allows.

    `close` gives back memory, as does the end of `with Infiller.load(...) as infiller:`.

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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the model, as `SwitchModel.close`; filling then raises a `ClosedError`."""
        self.model.close()

    def __repr__(self) -> str:
        """That of its model, under its own name."""
        return f"{type(self).__name__}{repr(self.model).removeprefix(type(self.model).__name__)}"

    @classmethod
    def load(
        cls,
        bundle: str | Path,
        device: Device = "auto",
        variant: str = "auto",
        *,
        engine: AnyEngine = "auto",
        threads: int | None = None,
        verify: bool = True,
        routing: bool = False,
        max_memory: int | None = None,
    ) -> Self:
        """Load a bundle; arguments and errors are those of `SwitchModel.load`.

        Raises:
            TokenizerError: The bundle's vocabulary is missing or of another size than its embedding.
        """
        model = SwitchModel.load(
            bundle,
            device,
            variant,
            engine=engine,
            threads=threads,
            verify=verify,
            routing=routing,
            max_memory=max_memory,
        )
        return cls(model, _load_tokenizer(Path(bundle), model.manifest, verify=verify))

    @with_options
    def infill(self, text: str, options: DecodingOptions | None = None, **fields: Unpack[DecodingFields]) -> list[Fill]:
        """Fill the blanks of a text.

        Args:
            text: With `<extra_id_n>` wherever something is missing: any numbers, in any order, each once.
            options: How to decode.
            fields: The same as keywords; `help(DecodingOptions)` says what each means.

        Returns:
            `num_return_sequences` fills, best first. Two may read alike, where the same text was spelled with
            different tokens. Beam search gives fewer where fewer are possible.

        Raises:
            TextError: The text has no blanks, bad ones, or too many tokens.
            OptionsError: A keyword is no option, or the options contradict each other or leave too little room.
        """
        check_one(text, "infill")
        (fills,) = self._filled(self._batches([text], 1, options, fields))
        return fills

    @with_options
    def infill_batch(
        self, texts: Sequence[str], options: DecodingOptions | None = None, **fields: Unpack[DecodingFields]
    ) -> list[list[Fill]]:
        """Fill several texts at once, as `infill` does one.

        Returns:
            For each text its fills, best first.
        """
        return [*self._filled(self._batches(texts, sys.maxsize, options, fields))]

    @with_options
    def infill_in_batches(
        self,
        texts: Sequence[str],
        batch_size: int = TEXTS_AT_ONCE,
        options: DecodingOptions | None = None,
        **fields: Unpack[DecodingFields],
    ) -> Iterator[list[Fill]]:
        """Fill many texts, some at a time, and give the fills of each as soon as its batch is done.

        Args:
            texts: As for `infill`; errors number them from 0.
            batch_size: The most texts to fill at once. Only neighbours with the same `max_new_tokens` are filled
                together; where it is not given, it follows from the number of blanks.
            options: As for `infill`.
            fields: As for `infill`.

        Returns:
            An iterator over the fills of each text, best first; they do not depend on the other texts, and samples
            only on the number of their own.

        Raises:
            TextError: As for `infill`, at once for all texts.
            OptionsError: As for `infill`, at once; also where `batch_size` is below 1.
        """
        return self._filled(self._batches(texts, batch_size, options, fields))

    @with_options
    def request(
        self,
        text: str,
        options: DecodingOptions | None = None,
        *,
        number: int = 0,
        **fields: Unpack[DecodingFields],
    ) -> Request:
        """Check a text and its options, to be filled by `fill_requests`.

        Args:
            text: As for `infill`.
            options: As for `infill`.
            number: Of the text among others: samples follow from it.
            fields: As for `infill`.

        Raises:
            TextError: As for `infill`.
            OptionsError: As for `infill`.
        """
        check_one(text, "request")
        return request_of(self.model, self.tokenizer, text, options, fields, number=number)

    def constraint(self, request: Request) -> SentinelConstraint | None:
        """What the output of a checked request must look like, if its options ask for that."""
        return self._constraint(Batch(request.number, [request.template], [request.ids], request.options))

    def reader(self, request: Request) -> SpanReader:
        """What takes the answer to a checked request apart, token by token."""
        return self._reader(request.template, request.options)

    def span_scores(self, text: str, target: Sequence[int], logprobs: Sequence[float]) -> list[float]:
        """What the tokens of each span add up to in a target that was scored, in the order of the text.

        Args:
            text: That has been scored.
            target: As `targets` gives it.
            logprobs: Of its tokens.
        """
        (template,) = templates_of([text], len(self.tokenizer.sentinel_ids))
        reader = SpanReader(template, self.tokenizer, self.model.special_tokens.eos_ids)
        for token, logprob in zip(target, logprobs, strict=True):
            reader.read(token, logprob)
        return [span.score for span in reader.spans(ended=True)]

    def fills(self, request: Request, generations: Iterable[Generation]) -> list[Fill]:
        """The fills that a checked request's generations come to, best first."""
        return self._ranked(request.template, request.options, generations)

    def fill_requests(self, requests: Sequence[Request], batch_size: int = TEXTS_AT_ONCE) -> Iterator[list[Fill]]:
        """Fill what `request` has checked, texts of about the same length together.

        Args:
            requests: In any order; options may differ.
            batch_size: The most texts to fill at once.

        Returns:
            An iterator over the fills of each request, best first, as soon as it and those before it are filled. They
            do not depend on the other requests.

        Raises:
            TextError: At once, where `requests` are no list, or not of requests.
            OptionsError: At once, where `batch_size` is below 1; later, where a request's options leave no possible
                token.
        """
        return in_order(self.fill_groups(requests, batch_size))

    def fill_groups(
        self, requests: Sequence[Request], batch_size: int = TEXTS_AT_ONCE, *, done: Container[int] = ()
    ) -> Iterator[dict[int, list[Fill]]]:
        """Fill requests as `fill_requests` does, and give what is filled at once without waiting for those before it.

        Args:
            requests: As for `fill_requests`.
            batch_size: As for `fill_requests`.
            done: Places of requests that need not be filled. Groups do not depend on it: those that hold none but
                such requests are passed over, and others are filled whole.

        Returns:
            An iterator over the fills of each group, by the places of its requests; the group that holds the first is
            filled first, and so on.

        Raises:
            TextError: As for `fill_requests`.
            OptionsError: As for `fill_requests`.
        """
        check_requests(requests, batch_size)
        groups = sorted(grouped(requests, batch_size), key=min)
        return (self._group(requests, places) for places in groups if not all(place in done for place in places))

    def _group(self, requests: Sequence[Request], places: Sequence[int]) -> dict[int, list[Fill]]:
        group = [requests[place] for place in places]
        templates, ids = [request.template for request in group], [request.ids for request in group]
        batch = Batch(group[0].number, templates, ids, group[0].options)
        return dict(zip(places, self._filled([batch]), strict=True))

    @with_options
    def stream(
        self, text: str, options: DecodingOptions | None = None, **fields: Unpack[DecodingFields]
    ) -> Iterator[Span]:
        """Fill the blanks of a text, and give every span as it grows.

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
        check_one(text, "stream")
        (batch,) = self._batches([text], 1, options, fields)
        count = batch.options.num_return_sequences
        if count > 1:
            raise OptionsError(f"num_return_sequences {count} cannot be streamed; use 1, or infill")
        events = self.model.stream_unchecked(batch.ids, batch.options, constraint=self._constraint(batch))
        return self._grown(self._reader(batch.templates[0], batch.options), events)

    @without_options
    def score(self, text: str, candidates: Sequence[Sequence[str]]) -> list[float]:
        """Log-likelihoods of given spans.

        Each candidate is scored as the target that T5 would have been trained on:
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
        ids, targets = self.targets(text, candidates)
        if not targets:
            return []
        return [float(logprobs.sum()) for logprobs in self.model.score([ids], targets)]

    def targets(self, text: str, candidates: Sequence[Sequence[str]]) -> tuple[list[int], list[list[int]]]:
        """The ids of a text, and of the target that each candidate is scored as.

        Raises:
            TextError: As for `score`; how long they are is not looked at.
        """
        (template,) = templates_of([text], len(self.tokenizer.sentinel_ids))
        check_list(candidates, "candidates")
        targets = [self._target(template, number, spans) for number, spans in enumerate(candidates)]
        return self.tokenizer.encode(text), targets

    def _batches(
        self, texts: Sequence[str], batch_size: int, options: DecodingOptions | None, fields: DecodingFields
    ) -> list[Batch]:
        return batches_of(self.model, self.tokenizer, texts, batch_size, options, fields)

    def _filled(self, batches: Iterable[Batch]) -> Iterator[list[Fill]]:
        for batch in batches:
            constraint = self._constraint(batch)
            generations = self.model.generate_unchecked(
                batch.ids, batch.options, constraint=constraint, first_input=batch.first
            )
            for template, of_text in zip(batch.templates, generations, strict=True):
                yield self._ranked(template, batch.options, of_text)

    def _constraint(self, batch: Batch) -> SentinelConstraint | None:
        if batch.options.constrain is False:
            return None
        tokenizer = self.tokenizer
        without_text = range(tokenizer.vocab_size, self.model.manifest.architecture.vocab_size)
        return SentinelConstraint(
            [self._blanks(template) for template in batch.templates],
            all_sentinels=tokenizer.sentinel_ids[::-1],
            tokens=self.model.special_tokens,
            options=batch.options,
            forbidden=[tokenizer.unk_id, *without_text],
            white_space=tokenizer.white_space_ids,
        )

    def _blanks(self, template: Template) -> list[int]:
        """The ids of a text's sentinels, in its order."""
        return [self.tokenizer.sentinel_id(index) for index in template.sentinels]

    def _reader(self, template: Template, options: DecodingOptions) -> SpanReader:
        """What takes an answer apart that was decoded so."""
        room = None if options.constrain is False else options.max_new_tokens
        return SpanReader(template, self.tokenizer, self.model.special_tokens.eos_ids, room=room)

    def _ranked(self, template: Template, options: DecodingOptions, generations: Iterable[Generation]) -> list[Fill]:
        return sorted((self._fill(template, options, one) for one in generations), key=_score, reverse=True)

    def _fill(self, template: Template, options: DecodingOptions, generation: Generation) -> Fill:
        reader = self._reader(template, options)
        for token_id, logprob in zip(generation.token_ids, generation.token_logprobs, strict=True):
            reader.read(token_id, logprob)
        spans = reader.spans(ended=True)
        return Fill(template.fill([span.text for span in spans]), generation.score, spans)

    def _grown(self, reader: SpanReader, events: Iterator[tuple[TokenEvent, ...]]) -> Iterator[Span]:
        for (event,) in events:
            reader.read(event.token_id, event.logprob)
            yield from reader.changes(ended=event.finish_reason is not None)

    def _target(self, template: Template, number: int, spans: Sequence[str]) -> list[int]:
        """What the model would say if it gave these spans."""
        tokenizer = self.tokenizer
        try:
            check_spans(spans)
            of_spans = [tokenizer.encode_span(span) for span in template.unfit(spans)]
        except TextError as error:
            raise TextError(f"candidate {number}: {error}") from error
        closing = template.sentinels[-1] + 1
        has_closing = closing < len(tokenizer.sentinel_ids) and closing not in template.sentinels
        pairs = zip(self._blanks(template), of_spans, strict=True)
        ids = [token for sentinel, of_span in pairs for token in (sentinel, *of_span)]
        return [*ids, *([tokenizer.sentinel_id(closing)] if has_closing else []), tokenizer.eos_id]


def _score(fill: Fill) -> float:
    return fill.score


def _load_tokenizer(bundle: Path, manifest: Manifest, *, verify: bool) -> Tokenizer:
    if verify:
        verify_files(bundle, manifest.tokenizer)
    return Tokenizer.load(bundle / names.TOKENIZER, extra_ids=manifest.extra_ids)

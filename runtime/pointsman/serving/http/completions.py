"""OpenAI's `POST /v1/completions` and `GET /v1/models`.

Either the prompt has blanks, and a choice's text is the filled prompt; or there is a suffix, and it is what stands
between the prompt and the suffix. Sampling is OpenAI's: on unless `temperature` is 0, from all tokens unless `top_p`
says otherwise. `max_tokens` counts the tokens of the spans. What has no meaning here is refused by its name.
"""

import re
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from pointsman.decoding import DecodingFields
from pointsman.infill import Infiller
from pointsman.infill.requests import Request as FillRequest
from pointsman.serving.http.choices import Choice, TextSoFar, choice_of, span_logprobs
from pointsman.serving.http.errors import RESPONSES, RefusedError
from pointsman.serving.http.events import event, stream_of
from pointsman.serving.http.fields import Counting, Strict
from pointsman.serving.http.infill import usage_of
from pointsman.serving.http.services import Services
from pointsman.serving.service import Filled, Filling, Service

_BLANK: Final = re.compile(r"<extra_id_(?:0|[1-9][0-9]*)>")
_MOST_STOPS: Final = 4
_MEANINGLESS: Final[dict[str, tuple[object, ...]]] = {
    "echo": (None, False),
    "best_of": (None, 1),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
}

Stop = Annotated[str, Field(min_length=1, max_length=100)]


class StreamOptions(Strict):
    """What a stream is to have."""

    include_usage: bool | None = None


class CompletionRequest(Strict):
    """A prompt with blanks, or a prompt and a suffix."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "demo", "prompt": "The <extra_id_0> walks in <extra_id_1> park.", "temperature": 0},
                {
                    "model": "demo",
                    "prompt": "The man walks in ",
                    "suffix": " park.",
                    "max_tokens": 4,
                    "n": 2,
                    "seed": 1,
                },
            ]
        }
    )

    prompt: str | list[str]
    model: str | None = None
    suffix: str | None = Field(default=None, description="What stands behind the text that is wanted.")
    max_tokens: Counting | None = Field(default=None, description="Most tokens of all spans together; 16.")
    n: Counting | None = Field(default=None, description="Choices for each prompt; above 1 only with sampling.")
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(default=None, description="0 is greedy; 1.")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**53 - 1)] | None = None
    stop: Stop | list[Stop] | None = Field(default=None, description="Where text is cut; only with a suffix.")
    logprobs: Annotated[int, Field(ge=0, le=1)] | None = Field(
        default=None, description="0: those of the tokens that were taken; 1: also the likeliest, where that is they."
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(default=None, description="Read, and not used.")
    echo: bool | None = Field(default=None, description="Only false.")
    best_of: Counting | None = Field(default=None, description="Only 1.")
    frequency_penalty: float | None = Field(default=None, description="Only 0.")
    presence_penalty: float | None = Field(default=None, description="Only 0.")
    logit_bias: dict[str, float] | None = Field(default=None, description="Only empty.")

    @property
    def stops(self) -> list[str]:
        """Where text is cut."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def is_sampled(self) -> bool:
        """Whether tokens are drawn."""
        return self.temperature != 0


class LogProbs(BaseModel):
    """The tokens of a choice's spans; offsets are characters of its text."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class ChoiceAnswer(BaseModel):
    """One completion."""

    index: int
    text: str
    finish_reason: str | None
    logprobs: LogProbs | None


class CompletionUsage(BaseModel):
    """Tokens that were read, and those of all spans that were generated."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionAnswer(BaseModel):
    """All completions; choice `n * i + j` is the j-th of prompt i."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[ChoiceAnswer]
    usage: CompletionUsage | None = None


class ModelAnswer(BaseModel):
    """A model that is served."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "pointsman"
    variant: str = Field(description="Which variant of the bundle runs.")
    engine: str = Field(description="By which inference engine.")
    device: str = Field(description="Where: `cpu` or `cuda`.")
    routing: bool = Field(description="Whether `/v1/infill` can show which expert each token went to.")


class ModelsAnswer(BaseModel):
    """All of them."""

    object: str = "list"
    data: list[ModelAnswer]


def completion_routes(services: Services) -> APIRouter:
    """Completions, and the models that they can be asked of."""
    router = APIRouter(prefix="/v1", responses=RESPONSES, tags=["openai"])
    created = int(time.time())

    def _model(service: Service) -> ModelAnswer:
        model = service.infiller.model
        choice = model.choice
        return ModelAnswer(
            id=service.name,
            created=created,
            variant=choice.variant,
            engine=choice.engine,
            device=choice.device,
            routing=model.shows_routing,
        )

    @router.get("/models", summary="Which models are served")
    async def models() -> ModelsAnswer:
        return ModelsAnswer(data=[_model(service) for service in services])

    @router.get("/models/{name}", summary="One of them")
    async def model(name: str) -> ModelAnswer:
        return _model(services.named(name))

    @router.post("/completions", response_model=CompletionAnswer, summary="Fill blanks, or the text before a suffix")
    async def complete(asked: CompletionRequest, request: Request) -> CompletionAnswer | Response:
        service = services.named(asked.model)
        texts = _texts(asked)
        _refuse(asked)
        is_streamed = bool(asked.stream)
        limit = service.infiller.model.manifest.limits.tokens
        each = [(text, _fields(asked, text, limit)) for text in texts]
        filling = await service.fill_each(each, is_streamed=is_streamed)
        completion = Completion(asked, service, filling, request.state.request_id)
        if is_streamed:
            return stream_of(request, completion.chunks())
        return await completion.answer()

    return router


def _texts(asked: CompletionRequest) -> list[str]:
    """The texts to fill, with blanks."""
    prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
    if asked.suffix is None:
        if not all(map(_BLANK.search, prompts)):
            raise RefusedError("a prompt needs a blank, <extra_id_0>, or a suffix, which may be empty", param="prompt")
        return prompts
    if any(map(_BLANK.search, [*prompts, asked.suffix])):
        raise RefusedError("the text before a suffix is filled; leave out the blanks, or the suffix", param="suffix")
    return [f"{prompt}<extra_id_0>{asked.suffix}" for prompt in prompts]


def _refuse(asked: CompletionRequest) -> None:
    """Refuse what has no meaning."""
    for name, neutral in _MEANINGLESS.items():
        value = getattr(asked, name)
        if value not in neutral:
            raise RefusedError(f"{name} has no meaning for this model; leave it out", param=name)
    if asked.stops and asked.suffix is None:
        raise RefusedError("stop has no meaning where blanks are filled; use a suffix", param="stop")
    if len(asked.stops) > _MOST_STOPS:
        raise RefusedError(f"stop has {len(asked.stops)} sequences; use {_MOST_STOPS} at most", param="stop")
    if asked.logprobs and asked.is_sampled:
        raise RefusedError("logprobs 1 needs temperature 0; use 0 for those of the drawn tokens", param="logprobs")
    if not asked.is_sampled:
        _refuse_without_sampling(asked)


def _refuse_without_sampling(asked: CompletionRequest) -> None:
    if (asked.n or 1) > 1:
        raise RefusedError("n above 1 needs a temperature above 0: all choices would be the same", param="n")
    if asked.top_p not in (None, 1):
        raise RefusedError("top_p has no meaning at temperature 0; leave it out", param="top_p")


def _fields(asked: CompletionRequest, text: str, limit: int) -> DecodingFields:
    """A text's decoding options; a blank takes a token beside its span's."""
    blanks = len(_BLANK.findall(text))
    most = 16 if asked.max_tokens is None else asked.max_tokens
    if most < blanks:
        raise RefusedError(f"max_tokens {most} is too few for {blanks} blanks; use one for each", param="max_tokens")
    if most + blanks > limit:
        raise RefusedError(f"max_tokens {most} is too many; this model allows {limit - blanks}", param="max_tokens")
    fields: DecodingFields = {
        "max_new_tokens": most + blanks,
        "min_new_tokens": 0,
        "num_beams": 1,
        "num_return_sequences": asked.n or 1,
        "do_sample": asked.is_sampled,
        "constrain": True,
    }
    if asked.is_sampled:
        fields |= {
            "temperature": max(0.001, 1.0 if asked.temperature is None else asked.temperature),
            "top_k": 0,
            "top_p": 1.0 if asked.top_p is None else asked.top_p,
            "seed": asked.seed,
        }
    return fields


class Completion:
    """A request that was taken, and its answer in OpenAI's form."""

    def __init__(self, asked: CompletionRequest, service: Service, filling: Filling, request_id: str) -> None:
        self._asked, self._service, self._filling = asked, service, filling
        self._count = asked.n or 1
        self._id, self._created = f"cmpl-{request_id}", int(time.time())

    async def answer(self) -> CompletionAnswer:
        """The whole answer."""
        results = await self._filling.filled()
        choices = [
            self._choice(filled.number * self._count + sample, choice)
            for filled in results
            for sample, choice in enumerate(self._choices(filled))
        ]
        return CompletionAnswer(
            id=self._id,
            created=self._created,
            model=self._service.name,
            choices=choices,
            usage=_usage(self._service.infiller, results),
        )

    async def chunks(self) -> AsyncIterator[bytes]:
        """The text of each choice as it grows, then how it ended, then perhaps the usage."""
        shown = [self._text_so_far(request) for request in self._filling.requests for _ in range(self._count)]
        results: list[Filled] = []
        async for change in self._filling.changes():
            first = change.number * self._count
            if isinstance(change, Filled):
                results.append(change)
                for sample, choice in enumerate(self._choices(change)):
                    yield self._last_chunk(first + sample, shown[first + sample].rest(choice.text), choice)
            elif text := shown[first + change.sample].grown(change.span):
                one = {"index": first + change.sample, "text": text, "finish_reason": None, "logprobs": None}
                yield self._chunk([one])
        if self._asked.stream_options and self._asked.stream_options.include_usage:
            yield self._chunk([], usage=_usage(self._service.infiller, results).model_dump())
        yield event("[DONE]")

    @property
    def _is_between(self) -> bool:
        return self._asked.suffix is not None

    def _text_so_far(self, request: FillRequest) -> TextSoFar:
        return TextSoFar(request, self._asked.stops, is_between=self._is_between)

    def _choices(self, filled: Filled) -> list[Choice]:
        infiller, stops, is_between = self._service.infiller, self._asked.stops, self._is_between
        return [choice_of(infiller, filled.request, one, stops, is_between=is_between) for one in filled.generations]

    def _choice(self, index: int, choice: Choice) -> ChoiceAnswer:
        logprobs = None
        if self._asked.logprobs is not None:
            pairs = zip(choice.tokens, choice.token_logprobs, strict=True)
            logprobs = LogProbs(
                tokens=choice.tokens,
                token_logprobs=choice.token_logprobs,
                top_logprobs=[{token: logprob} for token, logprob in pairs] if self._asked.logprobs else None,
                text_offset=choice.text_offset,
            )
        return ChoiceAnswer(index=index, text=choice.text, finish_reason=choice.finish_reason, logprobs=logprobs)

    def _last_chunk(self, index: int, rest: str, choice: Choice) -> bytes:
        """What was not yet shown of a choice, how it ended, and the logprobs of all of it."""
        return self._chunk([{**self._choice(index, choice).model_dump(), "text": rest}])

    def _chunk(self, choices: Sequence[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
        head = {"id": self._id, "object": "text_completion", "created": self._created, "model": self._service.name}
        return event({**head, "choices": list(choices), "usage": usage})


def _usage(infiller: Infiller, results: list[Filled]) -> CompletionUsage:
    """Tokens that were read, and those of the spans, which `max_tokens` limits: neither sentinels nor end."""
    read = usage_of(results)["input_tokens"]
    generated = sum(len(span_logprobs(infiller, one)) for filled in results for one in filled.generations)
    return CompletionUsage(prompt_tokens=read, completion_tokens=generated, total_tokens=read + generated)

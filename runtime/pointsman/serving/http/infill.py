"""`POST /v1/infill` and `POST /v1/score`."""

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from pointsman.serving.http.errors import RESPONSES
from pointsman.serving.http.events import event, stream_of
from pointsman.serving.http.fields import Decoding, Strict, Whole
from pointsman.serving.http.services import Services
from pointsman.serving.service import Filled, Filling, Routed, Service

_TEXT = "The <extra_id_0> walks in <extra_id_1> park."


class InfillRequest(Decoding):
    """Texts to fill, and how."""

    text: str | list[str] = Field(
        description="A text with <extra_id_n> wherever something is missing, or several.", examples=[_TEXT]
    )
    model: str | None = Field(
        default=None, description="Which of the models that are served; the first where left out."
    )
    first: Whole = Field(
        default=0, description="Number of the first text, where the texts are part of more: samples follow from it."
    )
    routing: bool = Field(
        default=False, description="Show which expert each token of the text and of its best fill went to."
    )
    stream: bool = Field(
        default=False, description="Answer with server-sent events: spans as they grow, then the fills."
    )
    timeout: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Seconds to wait, within the service's own."
    )

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": _TEXT, "num_beams": 4, "num_return_sequences": 2}]}
    )


class SpanAnswer(BaseModel):
    """What is in one blank."""

    index: int = Field(description="n of the blank's <extra_id_n>.", examples=[0])
    text: str = Field(examples=["old"])
    score: float = Field(description="Summed log-probabilities of its tokens.", examples=[-3.631])
    token_ids: list[int]
    state: Literal["growing", "complete", "cut", "missing"] = Field(
        description="complete: the model ended it; cut: the room for tokens did, also where other blanks need the rest."
    )


class FillAnswer(BaseModel):
    """A filled text."""

    text: str = Field(examples=["The old walks in the park."])
    score: float = Field(description="Log-probability of the output over its length.", examples=[-1.183])
    spans: list[SpanAnswer]


class LayerRouting(BaseModel):
    """The choices of one router."""

    block: int
    experts: list[int] = Field(description="The expert of each token.")


class StackRouting(BaseModel):
    """Where the tokens of the encoder or the decoder went."""

    tokens: list[str]
    layers: list[LayerRouting]


class RoutingAnswer(BaseModel):
    """Where all tokens went."""

    num_experts: int
    encoder: StackRouting
    decoder: StackRouting


class InfillResult(BaseModel):
    """The fills of one text, best first."""

    text: str = Field(description="The text that was asked for.", examples=[_TEXT])
    fills: list[FillAnswer]
    routing: RoutingAnswer | None = None


class Usage(BaseModel):
    """Tokens that were read and generated."""

    input_tokens: int
    output_tokens: int


class InfillAnswer(BaseModel):
    """The answer, with a result for every text."""

    model: str
    results: list[InfillResult]
    usage: Usage


class ScoreRequest(Strict):
    """Candidates for the blanks of a text."""

    text: str = Field(examples=[_TEXT])
    candidates: list[list[str]] = Field(
        description="For each candidate one span for each blank, in the order of the text.",
        examples=[[["man", "the"], ["dog", "a"]]],
    )
    model: str | None = None
    timeout: Annotated[float, Field(gt=0)] | None = None


class ScoreAnswer(BaseModel):
    """Log-likelihoods of the candidates; the highest is the likeliest."""

    model: str
    scores: list[float]
    spans: list[list[float]] = Field(
        description="For each candidate the summed log-probabilities of each span's tokens, given those before them."
    )


_STREAM = {"text/event-stream": {"schema": {"type": "string"}}}


def infill_routes(services: Services) -> APIRouter:
    """Both routes."""
    router = APIRouter(responses=RESPONSES, tags=["infill"])

    @router.post(
        "/v1/infill",
        response_model=InfillAnswer,
        response_model_exclude_none=True,
        responses={200: {"content": _STREAM}},
        summary="Fill the blanks of texts",
    )
    async def infill(asked: InfillRequest, request: Request) -> InfillAnswer | Response:
        """Fill texts; or stream events `span`, one `fills` for each text, and a last `done`."""
        service = services.named(asked.model)
        if asked.routing:
            service.check_routing()
        texts = [asked.text] if isinstance(asked.text, str) else asked.text
        fields, first = asked.decoding(), asked.first
        filling = await service.fill(texts, fields, first=first, is_streamed=asked.stream, seconds=asked.timeout)
        if asked.stream:
            return stream_of(request, _events(texts, service, filling, routing=asked.routing), error_name="error")
        results = await filling.filled()
        deadline = filling.deadline
        shown = [
            InfillResult.model_validate(await _result(texts, service, one, deadline, routing=asked.routing))
            for one in results
        ]
        return InfillAnswer(model=service.name, results=shown, usage=Usage(**usage_of(results)))

    @router.post("/v1/score", summary="Say how likely given spans are")
    async def score(asked: ScoreRequest) -> ScoreAnswer:
        """Score candidates."""
        service = services.named(asked.model)
        scored = await service.score(asked.text, asked.candidates, asked.timeout)
        return ScoreAnswer(
            model=service.name, scores=[one.score for one in scored], spans=[one.spans for one in scored]
        )

    return router


async def _events(texts: list[str], service: Service, filling: Filling, *, routing: bool) -> AsyncIterator[bytes]:
    results = []
    async for change in filling.changes():
        if isinstance(change, Filled):
            results.append(change)
            result = await _result(texts, service, change, filling.deadline, routing=routing)
            yield event({"input": change.number, **result}, "fills")
        else:
            yield event({"input": change.number, "sample": change.sample, **asdict(change.span)}, "span")
    yield event({"model": service.name, "usage": usage_of(results)}, "done")


async def _result(
    texts: list[str], service: Service, filled: Filled, deadline: float | None, *, routing: bool
) -> dict[str, Any]:
    result: dict[str, Any] = {"text": texts[filled.number], "fills": [asdict(fill) for fill in filled.fills]}
    if routing:
        result["routing"] = _routing(service, await service.routed(filled, deadline))
    return result


def _routing(service: Service, routed: Routed) -> dict[str, Any]:
    architecture = service.infiller.model.manifest.architecture
    stacks = {
        "encoder": (routed.source, architecture.encoder.sparse_layers, routed.encoder),
        "decoder": (routed.fed, architecture.decoder.sparse_layers, routed.decoder),
    }
    shown = {
        role: {
            "tokens": list(tokens),
            "layers": [{"block": block, "experts": own.tolist()} for block, own in zip(blocks, experts, strict=True)],
        }
        for role, (tokens, blocks, experts) in stacks.items()
    }
    return {"num_experts": architecture.num_experts, **shown}


def usage_of(results: list[Filled]) -> dict[str, int]:
    """Tokens that were read and generated."""
    return {
        "input_tokens": sum(len(filled.request.ids) for filled in results),
        "output_tokens": sum(len(one.token_ids) for filled in results for one in filled.generations),
    }

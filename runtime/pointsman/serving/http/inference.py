"""The Open Inference Protocol, version 2 (https://github.com/kserve/open-inference-protocol), and Triton's generate.

A model has one input, `text_input`, and the outputs `text_output` (filled texts), `score` and `spans` (JSON), each
`[texts, fills]`. Where beam search finds fewer fills than were asked for, the last ones are empty, and their score is
the lowest float32. Decoding options are parameters of the request.
"""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field, ValidationError

from pointsman.serving import outputs
from pointsman.serving.http.document import inlined
from pointsman.serving.http.errors import INFERENCE_RESPONSES, RefusedError
from pointsman.serving.http.events import event, stream_of
from pointsman.serving.http.fields import Strict
from pointsman.serving.http.infill import SpanAnswer
from pointsman.serving.http.problems import problems_of, sentence_of
from pointsman.serving.http.services import Services
from pointsman.serving.http.tensors import InferParameters, InferRequest, OutputTensor, texts_of
from pointsman.serving.service import Filled, Filling, Service

_VERSION: Final = "1"
_EXTENSIONS: Final = ("binary_tensor_data", "generate", "parameters")
_HEADER_LENGTH: Final = "inference-header-content-length"
_BODY: Final = {"content": {"application/json": {"schema": inlined(InferRequest)}}, "required": True}

Name = Annotated[str, Path(max_length=200)]


class ServerMetadata(BaseModel):
    """What serves."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """An input or output of a model."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, str] = Field(description="What runs: `variant`, `engine` and `device`.")


class GenerateRequest(Strict):
    """A text to fill."""

    id: str | None = Field(default=None, max_length=256)
    text_input: str = Field(examples=["The <extra_id_0> walks in <extra_id_1> park."])
    parameters: InferParameters = InferParameters()


class GenerateAnswer(BaseModel):
    """The best fill."""

    id: str | None = None
    model_name: str
    model_version: str
    text_output: str
    score: float
    spans: list[SpanAnswer]


def inference_routes(services: Services) -> APIRouter:
    """All routes under /v2; those of a model with and without its version."""
    router = APIRouter(prefix="/v2", responses=INFERENCE_RESPONSES, tags=["open inference protocol"])
    _add_health(router, services)
    _add_metadata(router, services)
    _add_inference(router, services)
    return router


def _add_health(router: APIRouter, services: Services) -> None:
    @router.get("/health/live", summary="Whether the process answers")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @router.get("/health/ready", summary="Whether all models would answer")
    async def ready() -> JSONResponse:
        return JSONResponse({"ready": services.are_ready}, 200 if services.are_ready else 503)

    @router.get("/models/{name}/ready", summary="Whether a model would answer")
    @router.get("/models/{name}/versions/{version}/ready", include_in_schema=False)
    async def model_ready(name: Name, request: Request) -> JSONResponse:
        service = _named(services, name, request)
        return JSONResponse({"name": name, "ready": service.is_ready}, 200 if service.is_ready else 503)


def _add_metadata(router: APIRouter, services: Services) -> None:
    @router.get("", summary="What serves")
    async def server() -> ServerMetadata:
        from pointsman import __version__

        return ServerMetadata(name="pointsman", version=__version__, extensions=[*_EXTENSIONS])

    @router.get("/models/{name}", summary="What a model takes and gives")
    @router.get("/models/{name}/versions/{version}", include_in_schema=False)
    async def model(name: Name, request: Request) -> ModelMetadata:
        choice = _named(services, name, request).infiller.model.choice
        kinds = {name: "FP32" if name == outputs.SCORE else "BYTES" for name in outputs.NAMES}
        return ModelMetadata(
            name=name,
            versions=[_VERSION],
            platform="pointsman",
            inputs=[TensorMetadata(name=outputs.INPUT, datatype="BYTES", shape=[-1])],
            outputs=[TensorMetadata(name=one, datatype=kind, shape=[-1, -1]) for one, kind in kinds.items()],
            parameters={"variant": choice.variant, "engine": choice.engine, "device": choice.device},
        )


def _add_inference(router: APIRouter, services: Services) -> None:
    @router.post("/models/{name}/infer", summary="Fill texts", openapi_extra={"requestBody": _BODY})
    @router.post("/models/{name}/versions/{version}/infer", include_in_schema=False)
    async def infer(name: Name, request: Request) -> Response:
        service = _named(services, name, request)
        asked, binary = _read(await request.body(), request.headers.get(_HEADER_LENGTH))
        wanted = _wanted(asked)
        texts = _texts(asked, binary)
        parameters = asked.parameters
        filling = await service.fill(texts, parameters.decoding(), seconds=parameters.seconds)
        return _answered(asked, wanted, _tensors(await filling.filled()), service.name)

    @router.post("/models/{name}/generate", summary="Fill a text")
    @router.post("/models/{name}/versions/{version}/generate", include_in_schema=False)
    async def generate(name: Name, asked: GenerateRequest, request: Request) -> GenerateAnswer:
        service = _named(services, name, request)
        (filled,) = await (await _filling(service, asked, is_streamed=False)).filled()
        return _generated(asked, service, filled)

    @router.post("/models/{name}/generate_stream", summary="Fill a text, and show it grow", response_class=Response)
    @router.post("/models/{name}/versions/{version}/generate_stream", include_in_schema=False)
    async def generate_stream(name: Name, asked: GenerateRequest, request: Request) -> Response:
        service = _named(services, name, request)
        filling = await _filling(service, asked, is_streamed=True)
        return stream_of(request, _growing(asked, service, filling))


def _named(services: Services, name: str, request: Request) -> Service:
    if request.path_params.get("version", _VERSION) != _VERSION:
        raise RefusedError(f"there is no version of this name; there is {_VERSION}", status=404)
    return services.named(name)


def _read(body: bytes, header_length: str | None) -> tuple[InferRequest, bytes]:
    """The JSON of a body, and what follows it."""
    length = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdigit() and int(header_length[:20]) <= len(body)):
            raise RefusedError("Inference-Header-Content-Length is no length within the body")
        length = int(header_length[:20])
    try:
        return InferRequest.model_validate_json(body[:length]), body[length:]
    except ValidationError as error:
        problems = problems_of(error.errors(include_url=False), InferRequest)
        raise RefusedError(sentence_of(problems)) from None


def _texts(asked: InferRequest, binary: bytes) -> list[str]:
    if [tensor.name for tensor in asked.inputs] != [outputs.INPUT]:
        raise RefusedError(f"there must be one input, {outputs.INPUT}", param="inputs")
    texts, taken = texts_of(asked.inputs[0], binary)
    if taken != len(binary):
        raise RefusedError("the body goes on behind its last tensor")
    return texts


def _wanted(asked: InferRequest) -> dict[str, bool]:
    """The outputs that are wanted, and whether each goes behind the JSON."""
    default = bool(asked.parameters.binary_data_output)
    if not asked.outputs:
        return dict.fromkeys(outputs.NAMES, default)
    wanted = {}
    for output in asked.outputs:
        if output.name not in outputs.NAMES:
            raise RefusedError(
                f"there is no output {output.name[:40]}; there are {', '.join(outputs.NAMES)}", param="outputs"
            )
        own = output.parameters.binary_data if output.parameters else None
        wanted[output.name] = default if own is None else own
    return wanted


def _tensors(results: Sequence[Filled]) -> list[OutputTensor]:
    found = outputs.Outputs.of(results)
    return [
        OutputTensor(outputs.TEXT, found.shape, "BYTES", found.texts),
        OutputTensor(outputs.SCORE, found.shape, "FP32", found.scores),
        OutputTensor(outputs.SPANS, found.shape, "BYTES", found.spans),
    ]


def _answered(asked: InferRequest, wanted: dict[str, bool], tensors: Sequence[OutputTensor], model: str) -> Response:
    listed: list[dict[str, Any]] = []
    binary = b""
    for tensor in tensors:
        if tensor.name not in wanted:
            continue
        shown: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if wanted[tensor.name]:
            data = tensor.binary()
            shown["parameters"] = {"binary_data_size": len(data)}
            binary += data
        else:
            shown["data"] = list(tensor.elements)
        listed.append(shown)
    head = {"model_name": model, "model_version": _VERSION, "outputs": listed}
    if asked.id is not None:
        head["id"] = asked.id
    if not binary:
        return JSONResponse(head)
    text = json.dumps(head, separators=(",", ":")).encode()
    return Response(
        text + binary,
        media_type="application/octet-stream",
        headers={"Inference-Header-Content-Length": str(len(text))},
    )


async def _filling(service: Service, asked: GenerateRequest, *, is_streamed: bool) -> Filling:
    decoding = asked.parameters.decoding()
    if decoding.get("num_return_sequences", 1) != 1:
        raise RefusedError("generate gives one fill; use infer for several", param="num_return_sequences")
    decoding["num_return_sequences"] = 1
    return await service.fill([asked.text_input], decoding, is_streamed=is_streamed, seconds=asked.parameters.seconds)


def _generated(asked: GenerateRequest, service: Service, filled: Filled) -> GenerateAnswer:
    best = filled.fills[0]
    spans = [SpanAnswer.model_validate(asdict(span)) for span in best.spans]
    return GenerateAnswer(
        id=asked.id,
        model_name=service.name,
        model_version=_VERSION,
        text_output=best.text,
        score=best.score,
        spans=spans,
    )


async def _growing(asked: GenerateRequest, service: Service, filling: Filling) -> AsyncIterator[bytes]:
    """The text as far as it is filled, after each change; last as `generate` gives it."""
    template = filling.requests[0].template
    shown = {index: f"<extra_id_{index}>" for index in template.sentinels}
    head = {"model_name": service.name, "model_version": _VERSION}
    async for change in filling.changes():
        if isinstance(change, Filled):
            yield event(_generated(asked, service, change).model_dump(exclude_none=True))
        elif change.span.text and shown[change.span.index] != change.span.text:
            shown[change.span.index] = change.span.text
            yield event({**head, "text_output": template.fill([*shown.values()])})

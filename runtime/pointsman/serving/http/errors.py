"""Errors as answers: a status, and one sentence in the form that each protocol has for it.

    /v2/...             {"error": "sentence"}
    everything else     {"error": {"message": "sentence", "type": "...", "param": null, "code": null}}, as OpenAI has it

An error that nobody foresaw is answered with its request's id, and its traceback goes to the log.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import Scope

from pointsman import errors
from pointsman.errors import (
    BusyError,
    DeadlineError,
    DeviceError,
    OptionsError,
    PointsmanError,
    TextError,
    TokenizerError,
    UnavailableError,
)
from pointsman.serving.http.problems import problems_of, sentence_of
from pointsman.wording import as_text

_TYPES: Final = {
    401: "authentication_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    503: "unavailable_error",
    504: "timeout_error",
}
_LONGEST: Final = 500  # characters of a sentence


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str = Field(description="One sentence.", examples=["the text has no blank: write <extra_id_0> where ..."])
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(default=None, description="The field that is wrong, where it is one.")
    code: str | None = Field(default=None, description="The error of Pointsman's Python library, where it is one.")


class ErrorAnswer(BaseModel):
    """The answer to a request that failed."""

    error: ErrorDetail


class InferenceErrorAnswer(BaseModel):
    """The same in the Open Inference Protocol."""

    error: str = Field(description="One sentence.")


RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {"model": ErrorAnswer, "description": "The request cannot be answered."},
    "5XX": {"model": ErrorAnswer, "description": "The service cannot answer now."},
}
INFERENCE_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {"model": InferenceErrorAnswer, "description": "The request cannot be answered."},
    "5XX": {"model": InferenceErrorAnswer, "description": "The service cannot answer now."},
}


class RefusedError(PointsmanError, ValueError):
    """A request that a protocol refuses.

    Attributes:
        status: The answer's.
        param: The field that is wrong, where it is one.
    """

    def __init__(self, message: str, *, status: int = 400, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param = status, param


def path_of(scope: Scope) -> str:
    """The path of a request within the application: without what it is mounted under, ASGI's `root_path`."""
    path: str = scope["path"]
    within = path.removeprefix(scope.get("root_path", ""))
    return within or "/" if within.startswith("/") or not within else path


def refusal(
    path: str,
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The answer to a request for a path that fails."""
    shown = as_text(message if len(message) <= _LONGEST else f"{message[:_LONGEST]}...")
    return JSONResponse(error_content(path, status, shown, param=param, code=code), status, headers=dict(headers or {}))


def error_content(
    path: str, status: int, message: str, *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """The same as a JSON object."""
    if path.startswith("/v2"):
        return {"error": message}
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "internal_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def status_of(error: BaseException) -> tuple[int, str, dict[str, str]]:
    """The status, the sentence and the headers that an error is answered with."""
    match error:
        case RefusedError():
            return error.status, str(error), {}
        case TextError() | OptionsError() | TokenizerError():
            return 400, str(error), {}
        case BusyError():
            return 429, str(error), {"Retry-After": str(math.ceil(error.retry_after))}
        case DeadlineError():
            return 504, str(error), {}
        case UnavailableError():
            return 503, str(error), {"Retry-After": "5"}
        case DeviceError():
            return 503, str(error), {"Retry-After": "1"}
        case _:
            return 500, "internal error; the log has more under this request's X-Request-Id", {}


def code_of(error: BaseException) -> str | None:
    """The class that the library raises for it, where it is one of the library's."""
    name = type(error).__name__
    return name if getattr(errors, name, None) is type(error) else None


def add_handlers(app: FastAPI) -> None:
    """Let the application answer what its routes raise on purpose."""
    app.add_exception_handler(PointsmanError, _of_ours)
    app.add_exception_handler(RequestValidationError, _of_fields)
    app.add_exception_handler(HTTPException, _of_routing)


async def _of_ours(request: Request, error: Exception) -> JSONResponse:
    status, message, headers = status_of(error)
    if status == 500:
        raise error
    param = getattr(error, "param", None)
    return refusal(path_of(request.scope), status, message, param=param, code=code_of(error), headers=headers)


async def _of_fields(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    if not _is_json(request.headers.get("content-type", "")):
        return refusal(path_of(request.scope), 415, "send the body as JSON, with Content-Type: application/json")
    found = [{**one, "loc": one["loc"][1:]} for one in error.errors()]
    field = getattr(request.scope.get("route"), "body_field", None)
    problems = problems_of(found, field.field_info.annotation if field is not None else None)
    param = problems[0].place or None
    return refusal(path_of(request.scope), 400, sentence_of(problems), param=param, code="OptionsError")


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


async def _of_routing(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    allowed = (error.headers or {}).get("Allow")
    sentences = {
        404: "there is no such page; /openapi.json lists them",
        405: "this page has no such method" + (f"; it has {allowed}" if allowed else ""),
    }
    message = sentences.get(error.status_code, str(error.detail))
    return refusal(path_of(request.scope), error.status_code, message, headers=error.headers)

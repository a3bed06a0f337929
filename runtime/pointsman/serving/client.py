"""A service from Python, which fills, streams and scores as `Infiller` does: code moves to it by one line."""

import json
import math
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from typing import Any, Final, Self, Unpack

import httpx2
import numpy as np

from pointsman import errors
from pointsman.decoding import DecodingFields, DecodingOptions, check_names, with_options, without_options
from pointsman.errors import (
    BusyError,
    DeadlineError,
    OptionsError,
    PointsmanError,
    ServiceError,
    TextError,
    UnavailableError,
)
from pointsman.infill import Fill, Span
from pointsman.infill.requests import TEXTS_AT_ONCE, check_batch_size, check_list, check_one, check_spans

_SECONDS: Final = 600.0  # where the service's own limit shall hold
_BEYOND: Final = 5.0  # seconds in which a service says that the time is up
_CONNECTING: Final = 5.0


class Client:
    """A service that fills blanks: `infill`, `infill_batch`, `infill_in_batches`, `stream` and `score` of `Infiller`.

    It keeps connections open, and is for one process; `with Client(url) as client:` closes them. Several threads may
    use one.
    """

    def __init__(
        self, url: str, *, key: str | None = None, model: str | None = None, timeout: float | None = None
    ) -> None:
        """Nothing is sent yet.

        Args:
            url: Where the service is, such as `http://localhost:8000`.
            key: The API key, where it asks for one.
            model: Which of its models; its first where None.
            timeout: Seconds to wait for an answer; as long as the service allows where None.

        Raises:
            OptionsError: The URL is none.
        """
        self._asking = _Asking(model, timeout)
        self._http = httpx2.Client(**_settings(url, key, timeout))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    @with_options
    def infill(self, text: str, options: DecodingOptions | None = None, **fields: Unpack[DecodingFields]) -> list[Fill]:
        """Fill the blanks of a text, as `Infiller.infill`.

        Raises:
            TextError: As there.
            OptionsError: As there, and where the service's limits are exceeded.
            BusyError: The service has too much to do.
            DeadlineError: The answer was not there in time.
            UnavailableError: The service is starting, stopping, or not there.
            ServiceError: It refuses the key (`status` 401), has no such model (404), or does not answer as it should.
        """
        return _fills(self._post("/v1/infill", self._asking.one(text, options, fields)))[0]

    @with_options
    def infill_batch(
        self, texts: Sequence[str], options: DecodingOptions | None = None, **fields: Unpack[DecodingFields]
    ) -> list[list[Fill]]:
        """Fill several texts, as `Infiller.infill_batch`; errors are those of `infill`."""
        return [*self.infill_in_batches(texts, TEXTS_AT_ONCE, options, **fields)]

    @with_options
    def infill_in_batches(
        self,
        texts: Sequence[str],
        batch_size: int = TEXTS_AT_ONCE,
        options: DecodingOptions | None = None,
        **fields: Unpack[DecodingFields],
    ) -> Iterator[list[Fill]]:
        """Fill many texts, some with each request, as `Infiller.infill_in_batches`; errors are those of `infill`."""
        bodies = self._asking.batches(texts, batch_size, options, fields)
        return (fills for body in bodies for fills in _fills(self._post("/v1/infill", body)))

    @with_options
    def stream(
        self, text: str, options: DecodingOptions | None = None, **fields: Unpack[DecodingFields]
    ) -> Iterator[Span]:
        """Fill a text, and give every span as it grows, as `Infiller.stream`; errors are those of `infill`."""
        spans = self._streamed(self._asking.stream(text, options, fields))
        begun = next(spans)  # asks, so that what is refused is refused at once
        assert begun is None
        return (span for span in spans if span is not None)

    @without_options
    def score(self, text: str, candidates: Sequence[Sequence[str]]) -> list[float]:
        """Log-likelihoods of given spans, as `Infiller.score`; errors are those of `infill`."""
        scores: list[float] = self._post("/v1/score", self._asking.score(text, candidates))["scores"]
        return scores

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        with _failures():
            response = self._http.post(path, json=body)
        return _answer(response)

    def _streamed(self, body: dict[str, Any]) -> Iterator[Span | None]:
        with _failures(), self._http.stream("POST", "/v1/infill", json=body) as response:
            if response.status_code != httpx2.codes.OK:
                response.read()
            _refuse(response)
            yield None
            events = _Events()
            for line in response.iter_lines():
                yield from events.spans(line)
            events.check_end()


class AsyncClient:
    """`Client` for event loops: the same methods, to be awaited; streams are asynchronous iterators."""

    def __init__(
        self, url: str, *, key: str | None = None, model: str | None = None, timeout: float | None = None
    ) -> None:
        """As `Client`."""
        self._asking = _Asking(model, timeout)
        self._http = httpx2.AsyncClient(**_settings(url, key, timeout))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    @with_options
    async def infill(
        self, text: str, options: DecodingOptions | None = None, **fields: Unpack[DecodingFields]
    ) -> list[Fill]:
        """Fill the blanks of a text; errors are those of `Client.infill`."""
        return _fills(await self._post("/v1/infill", self._asking.one(text, options, fields)))[0]

    @with_options
    async def infill_batch(
        self, texts: Sequence[str], options: DecodingOptions | None = None, **fields: Unpack[DecodingFields]
    ) -> list[list[Fill]]:
        """Fill several texts; errors are those of `Client.infill`."""
        return [fills async for fills in self.infill_in_batches(texts, TEXTS_AT_ONCE, options, **fields)]

    @with_options
    async def infill_in_batches(
        self,
        texts: Sequence[str],
        batch_size: int = TEXTS_AT_ONCE,
        options: DecodingOptions | None = None,
        **fields: Unpack[DecodingFields],
    ) -> AsyncIterator[list[Fill]]:
        """Fill many texts, some with each request; errors are those of `Client.infill`, when it is iterated."""
        for body in self._asking.batches(texts, batch_size, options, fields):
            for fills in _fills(await self._post("/v1/infill", body)):
                yield fills

    @with_options
    async def stream(
        self, text: str, options: DecodingOptions | None = None, **fields: Unpack[DecodingFields]
    ) -> AsyncIterator[Span]:
        """Fill a text, and give every span as it grows; errors are those of `Client.infill`, when it is iterated."""
        body = self._asking.stream(text, options, fields)
        async with _async_failures(), self._http.stream("POST", "/v1/infill", json=body) as response:
            if response.status_code != httpx2.codes.OK:
                await response.aread()
            _refuse(response)
            events = _Events()
            async for line in response.aiter_lines():
                for span in events.spans(line):
                    yield span
            events.check_end()

    @without_options
    async def score(self, text: str, candidates: Sequence[Sequence[str]]) -> list[float]:
        """Log-likelihoods of given spans; errors are those of `Client.infill`."""
        answer = await self._post("/v1/score", self._asking.score(text, candidates))
        scores: list[float] = answer["scores"]
        return scores

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with _async_failures():
            response = await self._http.post(path, json=body)
        return _answer(response)


class _Asking:
    """The bodies of requests."""

    def __init__(self, model: str | None, timeout: float | None) -> None:
        self._common = {"model": model, "timeout": timeout}

    def infill(
        self, text: str | Sequence[str], options: DecodingOptions | None, fields: DecodingFields
    ) -> dict[str, Any]:
        return _sendable({**self._common, "text": text, **_decoding(options, fields)})

    def one(self, text: str, options: DecodingOptions | None, fields: DecodingFields) -> dict[str, Any]:
        check_one(text, "infill")
        return self.infill(text, options, fields)

    def batches(
        self, texts: Sequence[str], batch_size: int, options: DecodingOptions | None, fields: DecodingFields
    ) -> list[dict[str, Any]]:
        check_list(texts, "texts")
        check_batch_size(batch_size)
        starts = range(0, len(texts), batch_size)
        return [
            {**self.infill(list(texts[start : start + batch_size]), options, fields), "first": start}
            for start in starts
        ]

    def stream(self, text: str, options: DecodingOptions | None, fields: DecodingFields) -> dict[str, Any]:
        check_one(text, "stream")
        body = self.infill(text, options, fields)
        for name in ("num_return_sequences", "num_beams"):
            if body.get(name, 1) != 1:
                raise OptionsError(f"{name} {body[name]} cannot be streamed; use 1, or infill")
        return {**body, "stream": True}

    def score(self, text: str, candidates: Sequence[Sequence[str]]) -> dict[str, Any]:
        check_list(candidates, "candidates")
        for number, spans in enumerate(candidates):
            try:
                check_spans(spans)
            except TextError as error:
                raise TextError(f"candidate {number}: {error}") from None
        return _sendable({**self._common, "text": text, "candidates": [list(spans) for spans in candidates]})


def _decoding(options: DecodingOptions | None, fields: DecodingFields) -> Mapping[str, Any]:
    check_names(fields)
    if options is None:
        return fields
    if fields:
        raise OptionsError(f"options and {', '.join(fields)} are both given; put all into one of the two")
    return asdict(options)


def _sendable(body: dict[str, Any]) -> dict[str, Any]:
    """The body without what is not said.

    Raises:
        TextError: It has text that is none, or values that JSON has not.
        OptionsError: A number is not finite.
    """
    said = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in body.items()
        if value is not None
    }
    for name, value in said.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise OptionsError(f"{name} {value} cannot be sent; give a finite number")
    try:
        json.dumps(said, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise TextError(f"this cannot be sent ({error}); give text and numbers") from None
    return said


def _settings(url: str, key: str | None, timeout: float | None) -> dict[str, Any]:
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, TypeError):
        parsed = httpx2.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise OptionsError(f"{url!r} is no address of a service; give one such as http://localhost:8000")
    if parsed.path.rstrip("/").endswith("/v1"):
        raise OptionsError(f"{url!r} is where OpenAI's clients ask; leave out /v1 here")
    read = (_SECONDS if timeout is None else timeout) + _BEYOND
    return {"base_url": url, "headers": _headers(key), "timeout": httpx2.Timeout(read, connect=_CONNECTING)}


def _headers(key: str | None) -> dict[str, str]:
    """Those that show a key; a file that holds it ends with a line's end, which is none of it."""
    if key is None:
        return {}
    key = key.strip()
    if not key:
        raise OptionsError("the key is empty; give one, or leave it out where none is asked for")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise OptionsError("the key has characters that no header can hold; give one line of ASCII, without blanks")
    return {"Authorization": f"Bearer {key}"}


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except httpx2.HTTPError as error:
        raise _failure(error) from error


@asynccontextmanager
async def _async_failures() -> AsyncIterator[None]:
    try:
        yield
    except httpx2.HTTPError as error:
        raise _failure(error) from error


def _failure(error: httpx2.HTTPError) -> PointsmanError:
    url = error.request.url
    if url.scheme == "https" and "SSL" in str(error):
        return UnavailableError(
            f"what answers at https://{url.netloc.decode()} has no TLS or a certificate that is not trusted here; give "
            "http:// where it has none, or let this machine trust the certificate"
        )
    if isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout)):
        return UnavailableError(
            f"there is no service at {url.scheme}://{url.netloc.decode()}; start it, or correct the address"
        )
    if isinstance(error, httpx2.TimeoutException):
        return DeadlineError("the service did not answer in time; ask for less, or allow more time")
    return UnavailableError(f"the connection to the service ended ({type(error).__name__}); ask again")


def _answer(response: httpx2.Response) -> dict[str, Any]:
    _refuse(response)
    try:
        answer: dict[str, Any] = response.json()
    except ValueError:
        raise ServiceError("the service does not answer in JSON; check its address") from None
    return answer


def _refuse(response: httpx2.Response) -> None:
    """Raise what a service says that went wrong."""
    status = response.status_code
    if status == httpx2.codes.OK:
        return
    try:
        detail = response.json()["error"]
        message, code = str(detail["message"]), detail["code"]
    except (ValueError, KeyError, TypeError):
        # The service always says why: it is something before it that answers, in place of one that is gone.
        if status >= httpx2.codes.INTERNAL_SERVER_ERROR:
            lost = UnavailableError(f"the service cannot be reached (status {status}); ask again")
            raise _answered(lost, status) from None
        strange = ServiceError(f"the service answers with status {status} and no reason; check its address")
        raise _answered(strange, status) from None
    after = response.headers.get("retry-after", "")
    raise _answered(_refused(status, message, code, float(after) if after.isdigit() else 1.0), status)


def _answered(error: PointsmanError, status: int) -> PointsmanError:
    """An error with the status that told of it."""
    if isinstance(error, ServiceError):
        error.status = status
    return error


def _refused(status: int, message: str, code: object, after: float = 1.0) -> PointsmanError:
    match status:
        case 429:
            return BusyError(message, after)
        case 408 | 504:
            return DeadlineError(message)
        case 503:
            return UnavailableError(message)
    own = getattr(errors, code, None) if isinstance(code, str) else None
    if isinstance(own, type) and issubclass(own, PointsmanError):
        return own(message)
    return ServiceError(message)


def _fills(answer: dict[str, Any]) -> list[list[Fill]]:
    return [[_fill(fill) for fill in result["fills"]] for result in answer["results"]]


def _fill(fill: dict[str, Any]) -> Fill:
    return Fill(fill["text"], fill["score"], tuple(_span(span) for span in fill["spans"]))


def _span(span: dict[str, Any]) -> Span:
    return Span(span["index"], span["text"], span["score"], tuple(span["token_ids"]), span["state"])


class _Events:
    """Reads the lines of a stream of events."""

    def __init__(self) -> None:
        self._name = ""
        self._is_over = self._has_spans = False

    def spans(self, line: str) -> Iterator[Span]:
        """The spans that a line tells of.

        Raises:
            PointsmanError: The line tells of an error.
        """
        field, _, value = line.partition(": ")
        if field == "event":
            self._name = value
        elif field == "data":
            yield from self._told(json.loads(value))

    def _told(self, data: dict[str, Any]) -> Iterator[Span]:
        match self._name:
            case "span" if data.get("sample"):  # what the bundle's own settings ask for
                raise OptionsError("several samples cannot be streamed; use num_return_sequences=1, or infill")
            case "span":
                self._has_spans = True
                yield _span(data)
            case "fills" if not self._has_spans:  # a search that has nothing to show before its end
                yield from _fill(data["fills"][0]).spans
            case "error":
                raise _refused(httpx2.codes.OK, data["error"]["message"], data["error"]["code"])
            case "done":
                self._is_over = True

    def check_end(self) -> None:
        """Refuse a stream that broke off.

        Raises:
            UnavailableError: It did.
        """
        if not self._is_over:
            raise UnavailableError("the service broke off its answer; ask again")

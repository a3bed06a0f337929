"""`Client` and `AsyncClient`: the surface, results and errors of `Infiller`."""

import asyncio
import re

import numpy as np
import pytest

from e2e.serving.answering import answering
from e2e.serving.served import serving
from pointsman import (
    AsyncClient,
    BusyError,
    Client,
    DeadlineError,
    DecodingOptions,
    OptionsError,
    ServiceError,
    TextError,
    UnavailableError,
)

TEXT = "The <extra_id_0> walks in <extra_id_1> park."
OTHER = "Once upon a <extra_id_0>."
TEXTS = [TEXT, OTHER, TEXT, OTHER, TEXT]
SAMPLED = {"do_sample": True, "seed": 4, "num_return_sequences": 2}


@pytest.fixture
def client(served):
    with Client(served.url) as client:
        yield client


def asynchronously(served, ask):
    async def run():
        async with AsyncClient(served.url) as client:
            return await ask(client)

    return asyncio.run(run())


@pytest.mark.parametrize("fields", [{}, {"num_beams": 3, "num_return_sequences": 2}, SAMPLED, {"constrain": False}])
def test_fills(served, client, library, fields):
    expected = library.infill(TEXT, **fields)
    assert client.infill(TEXT, **fields) == expected
    assert asynchronously(served, lambda client: client.infill(TEXT, **fields)) == expected


@pytest.mark.parametrize(
    "options", [DecodingOptions(), DecodingOptions(max_new_tokens=9, constrain=False, num_beams=2)]
)
def test_options(client, library, options):
    assert client.infill(TEXT, options) == library.infill(TEXT, options)


def test_options_of_numpy(client, library):
    fields = {"num_beams": np.int64(3), "length_penalty": np.float32(0.5)}
    assert client.infill(TEXT, **fields) == library.infill(TEXT, **fields)


def test_batches(served, client, library):
    expected = [*library.infill_in_batches(TEXTS, 1, **SAMPLED)]  # one at a time, as the service decodes them
    assert client.infill_batch(TEXTS, **SAMPLED) == expected
    assert [*client.infill_in_batches(TEXTS, 2, **SAMPLED)] == expected
    assert asynchronously(served, lambda client: client.infill_batch(TEXTS, **SAMPLED)) == expected


def test_streams(served, client, library):
    expected = [*library.stream(TEXT)]
    assert [*client.stream(TEXT)] == expected

    async def streamed(client):
        return [span async for span in client.stream(TEXT)]

    assert asynchronously(served, streamed) == expected


def test_scores(served, client, library):
    candidates = [["man", "the"], ["dog", "a"]]
    assert client.score(TEXT, candidates) == library.score(TEXT, candidates)
    assert asynchronously(served, lambda client: client.score(TEXT, candidates)) == library.score(TEXT, candidates)
    assert client.score(TEXT, []) == []


CALLS = {
    "no blank": lambda one: one.infill("no blank"),
    "one of several": lambda one: [*one.infill_in_batches([TEXT, "no blank"], 2)],
    "texts": lambda one: one.infill_batch("text"),
    "texts that are read once": lambda one: one.infill_in_batches(iter(TEXTS)),
    "candidates that are read once": lambda one: one.score(TEXT, iter([["man", "the"]])),
    "spans that are read once": lambda one: one.score(TEXT, [iter(["man", "the"])]),
    "a span that is none": lambda one: one.score(TEXT, [["man", 5]]),
    "too long": lambda one: one.infill(OTHER + " word" * 5000),
    "one of several too long": lambda one: one.infill_batch([OTHER, OTHER + " word" * 5000]),
    "options": lambda one: one.infill(TEXT, num_beams=0),
    "options that contradict": lambda one: one.infill(TEXT, temperature=0.5),
    "options twice": lambda one: one.infill(TEXT, DecodingOptions(), num_beams=2),
    "batch size": lambda one: one.infill_in_batches(TEXTS, 0),
    "spans": lambda one: one.score(TEXT, [["man"]]),
    "spans as one string": lambda one: one.score(TEXT, ["ab"]),
    "room": lambda one: one.infill(TEXT, max_new_tokens=3),
    "a number that is none": lambda one: one.infill(TEXT, do_sample=True, temperature=float("nan")),
    "text that is none": lambda one: one.infill("a \ud800 <extra_id_0>"),
}


@pytest.mark.parametrize("kind", CALLS)
def test_errors_are_those_of_the_library(client, library, kind):
    with pytest.raises((TextError, OptionsError)) as expected:
        CALLS[kind](library)
    with pytest.raises(expected.type):
        CALLS[kind](client)


@pytest.mark.parametrize("name", ["num_beams", "num_return_sequences"])
def test_what_cannot_be_streamed(client, name):
    with pytest.raises(OptionsError, match=f"{name} 2 cannot be streamed; use 1, or infill"):
        client.stream(TEXT, do_sample=True, **{name: 2})


def test_streams_are_refused_at_once(client):
    with pytest.raises(TextError, match="the text has no blank"):
        client.stream("no blank")


def test_times_keys_and_models(served, bundle, tmp_path):
    with Client(served.url, timeout=0.001) as hasty, pytest.raises(DeadlineError, match="was not there after"):
        hasty.infill(TEXT, num_beams=8)
    with (
        Client(served.url, model="other") as lost,
        pytest.raises(ServiceError, match="there is no model of this name") as missing,
    ):
        lost.infill(TEXT)
    assert missing.value.status == 404
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-some-length")
    with serving(bundle, "--api-keys", keys) as running:
        for key in (None, "another-key-of-some-length"):
            with Client(running.url, key=key) as unknown, pytest.raises(ServiceError, match=" key") as refused:
                unknown.infill(TEXT)
            assert refused.value.status == 401
        with Client(running.url, key="a-key-of-some-length", model="demo") as known:
            assert known.infill(TEXT)
    with (
        Client(running.url) as late,
        pytest.raises(UnavailableError, match="there is no service at http://127") as gone,
    ):
        late.infill(TEXT)
    assert gone.value.status is None


@pytest.mark.parametrize("url", ["http://localhost:8000/v1", "https://host/under/v1/"])
def test_addresses_of_openais_clients(url):
    with pytest.raises(OptionsError, match="is where OpenAI's clients ask; leave out /v1 here"):
        Client(url)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x", "http://", None])
def test_addresses_that_are_none(url):
    with pytest.raises(OptionsError, match="is no address of a service; give one such as http://localhost:8000"):
        Client(url)


ANSWERS = {
    "busy": (b"429 Busy\r\nRetry-After: 7", b'{"error": {"message": "busy", "code": "BusyError"}}', BusyError, "busy"),
    "no reason": (b"403 Forbidden", b"<html>", ServiceError, "status 403 and no reason; check its address"),
    "a proxy": (b"502 Bad Gateway", b"<html>", UnavailableError, "the service cannot be reached (status 502); ask"),
    "no JSON": (b"200 OK", b"<html>", ServiceError, "does not answer in JSON"),
    "stopping": (b"503 No", b'{"error": {"message": "stopping", "code": null}}', UnavailableError, "stopping"),
    "internal": (b"500 No", b'{"error": {"message": "internal", "code": "Exception"}}', ServiceError, "internal"),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_answers_of_others(kind):
    status, body, error, sentence = ANSWERS[kind]
    with (
        answering(status, body) as url,
        Client(url) as client,
        pytest.raises(error, match=re.escape(sentence)) as raised,
    ):
        client.infill(TEXT)
    if error is BusyError:
        assert raised.value.retry_after == 7
    if status != b"200 OK":
        assert raised.value.status == int(status[:3])


SPAN = b'{"index": 0, "text": "", "score": 0, "token_ids": [], "state": "growing"}'
SAMPLE = SPAN[:-1] + b', "sample": 1}'
LATE = b'{"error": {"message": "late", "code": "DeadlineError"}}'
EVENTS = {
    "broken off": (b"event: span\ndata: " + SPAN, UnavailableError, "the service broke off its answer; ask again"),
    "samples": (b"event: span\ndata: " + SAMPLE, OptionsError, "several samples cannot be streamed; use num_return"),
    "failed": (b"event: error\ndata: " + LATE, DeadlineError, "late"),
}


@pytest.mark.parametrize("kind", EVENTS)
def test_streams_that_fail(kind):
    events, error, sentence = EVENTS[kind]
    with answering(b"200 OK", events + b"\n\n") as url, Client(url) as client, pytest.raises(error, match=sentence):
        list(client.stream(TEXT))


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_key_may_end_its_line_and_must_fit_a_header(kind, bundle, tmp_path):
    """What is read from a file of keys ends with a line's end; what cannot be sent is refused before it is."""
    for key, sentence in (
        ("", "the key is empty"),
        ("\n", "the key is empty"),
        ("clé-of-some-length", "characters that no header can hold"),
        ("one-of-some-length\nanother-of-some-length", "characters that no header can hold"),
    ):
        with pytest.raises(OptionsError, match=sentence) as refused:
            kind("http://localhost:8000", key=key)
        assert "some-length" not in str(refused.value)  # a key is not shown
    client = kind("http://localhost:8000", key="a-key-of-some-length\n")
    assert client._http.headers["authorization"] == "Bearer a-key-of-some-length"


def test_a_service_without_tls():
    """It is there: the address is wrong in its first letters alone."""
    with (
        answering(b"200 OK", b"{}") as url,
        Client(url.replace("http:", "https:")) as client,
        pytest.raises(UnavailableError, match="has no TLS or a certificate that is not trusted here; give http://"),
    ):
        client.infill(TEXT)

"""`POST /v1/infill` and `/v1/score`: what the library gives, and sentences for what cannot be."""

import json
import re
from dataclasses import asdict

import pytest

from pointsman import DecodingOptions, Infiller
from pointsman.serving.http.fields import Decoding

TEXT = "The <extra_id_0> walks in <extra_id_1> park."
OTHER = "Once upon a <extra_id_0>."
OPTIONS = {
    "greedy": {},
    "beams": {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.5, "early_stopping": "never"},
    "samples": {"do_sample": True, "seed": 7, "num_return_sequences": 2, "top_k": 0, "top_p": 0.9, "temperature": 0.8},
    "unconstrained": {"constrain": False, "max_new_tokens": 9},
    "penalties": {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "min_new_tokens": 8},
}


def as_json(fills):
    return json.loads(json.dumps([asdict(fill) for fill in fills]))


def alone(library, text, number, fields):
    """The fills of one text of several, decoded by itself."""
    (fills,) = library.fill_requests([library.request(text, number=number, **fields)], 1)
    return fills


def events_of(response):
    events = []
    for block in response.text.split("\n\n"):
        if block:
            name, data = block.split("\n")
            events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events


@pytest.mark.parametrize("kind", OPTIONS)
def test_fills_are_those_of_the_library(http, library, kind):
    answer = http.post("/v1/infill", json={"text": TEXT, **OPTIONS[kind]})
    assert answer.status_code == 200
    (result,) = answer.json()["results"]
    assert result["text"] == TEXT
    assert result["fills"] == as_json(library.infill(TEXT, **OPTIONS[kind]))


def test_several_texts(http, library):
    fields = {"do_sample": True, "seed": 3}
    answer = http.post("/v1/infill", json={"text": [TEXT, OTHER], **fields}).json()
    assert answer["model"] == "demo"
    assert [result["fills"] for result in answer["results"]] == [
        as_json(alone(library, text, number, fields)) for number, text in enumerate([TEXT, OTHER])
    ]
    assert answer["usage"]["input_tokens"] == sum(len(library.tokenizer.encode(text)) for text in (TEXT, OTHER))
    assert answer["usage"]["output_tokens"] > 0


def test_streams_give_spans_as_they_grow(http, library):
    with http.stream("POST", "/v1/infill", json={"text": TEXT, "stream": True}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        answer.read()
    events = events_of(answer)
    spans = [data for name, data in events if name == "span"]
    expected = [{"input": 0, "sample": 0, **asdict(span)} for span in library.stream(TEXT)]
    assert spans == json.loads(json.dumps(expected))
    assert [name for name, _ in events[len(spans) :]] == ["fills", "done"]
    assert events[-2][1]["fills"] == as_json(library.infill(TEXT))


@pytest.mark.parametrize("kind", ["beams", "samples"])
def test_streams_of_several_texts_end_with_their_fills(http, library, kind):
    answer = http.post("/v1/infill", json={"text": [TEXT, OTHER], "stream": True, **OPTIONS[kind]})
    fills = {data["input"]: data["fills"] for name, data in events_of(answer) if name == "fills"}
    texts = enumerate([TEXT, OTHER])
    assert fills == {number: as_json(alone(library, text, number, OPTIONS[kind])) for number, text in texts}


def test_scores_are_those_of_the_library(http, library):
    candidates = [["man", "the"], ["dog", "a"]]
    answer = http.post("/v1/score", json={"text": TEXT, "candidates": candidates})
    assert (answer.json()["model"], answer.json()["scores"]) == ("demo", library.score(TEXT, candidates))
    assert http.post("/v1/score", json={"text": TEXT, "candidates": []}).json()["scores"] == []


def test_spans_score_what_they_do_in_a_fill(http, library):
    fill = library.infill(TEXT)[0]
    candidates = [[span.text for span in fill.spans], ["man of men", "the"]]
    first, other = http.post("/v1/score", json={"text": TEXT, "candidates": candidates}).json()["spans"]
    assert first == pytest.approx([span.score for span in fill.spans], abs=0.01)  # constrained
    assert len(other) == 2
    assert max(other) < 0


def test_many_candidates(http, library):
    candidates = [[f"man {'of that kind ' * (number % 40)}", "the"] for number in range(100)]
    scores = http.post("/v1/score", json={"text": TEXT, "candidates": candidates}).json()["scores"]
    assert scores == pytest.approx(library.score(TEXT, candidates), abs=2e-3)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "text is missing; give it"),
        ({"txt": TEXT}, "text is missing; give it; txt is no field; did you mean text?"),
        ({"text": 3}, "text must be text or a list"),
        ({"text": TEXT, "early_stopping": 2}, "early_stopping must be true or false or 'never'"),
        ([], "the body must be an object"),
        ({"text": []}, "there is no text; give at least one"),
        ({"text": "no blank"}, "the text has no blank: write <extra_id_0> where something is to be filled in"),
        ({"text": [TEXT, "no blank"]}, "input 1: the text has no blank: write <extra_id_0> where something is to be"),
        ({"text": TEXT, "num_beam": 2}, "num_beam is no field; did you mean num_beams?"),
        ({"text": TEXT, "num_beams": "2"}, "num_beams must be a whole number"),
        ({"text": TEXT, "num_beams": True}, "num_beams must be a whole number"),
        ({"text": TEXT, "num_beams": 0}, "num_beams is too small; use 1 or more"),
        (
            {"text": TEXT, "num_beams": 65},
            "65 beams or samples are too many; this service gives 64 to a request at most",
        ),
        ({"text": TEXT, "temperature": 0.5}, "temperature without do_sample would change nothing"),
        ({"text": TEXT, "max_new_tokens": 10**9}, "max_new_tokens is 1000000000, and this bundle allows at most"),
        ({"text": TEXT, "max_new_tokens": 3}, "max_new_tokens 3 is too few for the 2 blanks"),
        ({"text": TEXT, "seed": 2**64}, "seed is too large; use 9007199254740991 at most"),
        ({"text": TEXT, "timeout": -1}, "timeout is too small; use more than 0"),
        ({"text": [OTHER] * 65}, "65 texts are too many; this service takes 64 at a time"),
        ({"text": OTHER + "x" * 40000}, "a text has 40025 characters; this service takes 32768 at most"),
        ({"text": OTHER + " word" * 6000}, "tokens, and this bundle takes"),
    ],
)
def test_what_cannot_be_filled(http, body, sentence):
    answer = http.post("/v1/infill", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert sentence in error["message"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"text": TEXT, "candidates": [["man"]]}, "candidate 0: 1 span for 2 blanks"),
        ({"text": TEXT, "candidates": [["a", "b"]] * 257}, "257 candidates are too many; this service scores 256"),
        ({"text": TEXT, "candidates": [["a", "b" * 40000]]}, "a span has 40000 characters"),
        ({"text": TEXT, "candidates": [["a", "b " * 15000]]}, "candidate 0 has 1"),
    ],
)
def test_what_cannot_be_scored(http, body, sentence):
    answer = http.post("/v1/score", json=body)
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]["message"]


def test_a_model_that_is_not_there(http):
    answer = http.post("/v1/infill", json={"text": TEXT, "model": "other"})
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == "there is no model of this name; there are demo"


def test_a_client_may_wait_less_than_the_service_allows(http):
    answer = http.post("/v1/infill", json={"text": TEXT, "num_beams": 8, "timeout": 0.001})
    assert answer.status_code == 504
    assert "the answer was not there after" in answer.json()["error"]["message"]


def test_fields_are_those_of_decoding_options():
    assert list(Decoding.model_fields) == list(DecodingOptions.__dataclass_fields__)


@pytest.fixture(scope="module")
def routed(bundle):
    """The library, where it shows routing."""
    return Infiller.load(bundle, variant="fused-float32", routing=True)


@pytest.mark.parametrize("fields", [{}, {"num_beams": 3, "num_return_sequences": 2}, {"stream": True}])
def test_where_tokens_went(http, routed, fields):
    answer = http.post("/v1/infill", json={"text": [TEXT, OTHER], "routing": True, **fields})
    if "stream" in fields:
        results = sorted((data for name, data in events_of(answer) if name == "fills"), key=lambda one: one["input"])
    else:
        results = answer.json()["results"]
    for text, result in zip([TEXT, OTHER], results, strict=True):
        request = routed.request(text, num_beams=fields.get("num_beams", 1))
        ((best,),) = routed.model.generate([request.ids], request.options, constraint=routed.constraint(request))
        expected = routed.model.routes(request.ids, best.token_ids)
        shown = result["routing"]
        assert shown["num_experts"] == 8
        for role in ("encoder", "decoder"):
            assert [layer["block"] for layer in shown[role]["layers"]] == [1, 3]
            assert [layer["experts"] for layer in shown[role]["layers"]] == getattr(expected, role).tolist()
        assert len(shown["encoder"]["tokens"]) == len(request.ids)
        assert shown["encoder"]["tokens"][0] == text.split()[0]
        assert shown["decoder"]["tokens"][:2] == ["<pad>", "<extra_id_0>"]


def test_request_ids(http):
    given = http.post("/v1/infill", json={"text": OTHER}, headers={"X-Request-Id": "abc-1"})
    assert given.headers["x-request-id"] == "abc-1"
    made = {
        http.get("/metrics", headers={"X-Request-Id": bad}).headers["x-request-id"] for bad in ("", "a b", "x" * 65)
    }
    assert all(len(one) == 32 for one in made)
    assert len(made) == 3


def test_metrics(http):
    http.post("/v1/infill", json={"text": OTHER})
    text = http.get("/metrics").text
    assert 'pointsman_requests_total{outcome="200",route="/v1/infill"}' in text
    for name in ("step_rows", "step_seconds", "wait_seconds", "tokens_in", "tokens_out", "waiting"):
        assert f"pointsman_{name}{'_total' if name.startswith('tokens') else ''}" in text.replace("_bucket", "")


def test_experts_are_counted(http, library):
    def counted():
        text = http.get("/metrics").text
        found = re.findall(r'^pointsman_expert_tokens_total{.*stack="(\w+)"} ([\d.]+)$', text, re.MULTILINE)
        return {stack: sum(float(count) for one, count in found if one == stack) for stack in ("encoder", "decoder")}

    before = counted()
    usage = http.post("/v1/infill", json={"text": TEXT}).json()["usage"]
    after = counted()
    assert after["encoder"] - before["encoder"] == 2 * usage["input_tokens"]
    assert after["decoder"] - before["decoder"] == 2 * usage["output_tokens"]
    assert (
        'pointsman_dropped_tokens_total{block="1",expert="0",model="demo",stack="encoder"} 0.0'
        in http.get("/metrics").text
    )


def test_other_origins_are_told_nothing(http):
    answer = http.options(
        "/v1/infill", headers={"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    )
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_pages_that_are_not_there(http):
    answer = http.get("/nothing")
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        404,
        "there is no such page; /openapi.json lists them",
    )


def test_the_document_lists_every_route_with_examples(http):
    document = http.get("/openapi.json").json()
    assert {"/v1/infill", "/v1/score", "/metrics"} <= set(document["paths"])
    assert document["components"]["schemas"]["InfillRequest"]["examples"]

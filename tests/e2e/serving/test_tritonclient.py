"""The Open Inference Protocol as `tritonclient` speaks it, and as curl does."""

import json
import subprocess
import warnings

import httpx2
import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports what is deprecated elsewhere
    import tritonclient.http as triton
    from tritonclient.utils import InferenceServerException

TEXT = "The <extra_id_0> walks in <extra_id_1> park."
OTHER = "Once upon a <extra_id_0>."


@pytest.fixture(scope="module")
def client(served):
    with triton.InferenceServerClient(served.url.removeprefix("http://")) as client:
        yield client


def texts(*given, binary=True):
    tensor = triton.InferInput("text_input", [len(given)], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode() for text in given], dtype=np.object_), binary_data=binary)
    return [tensor]


def test_health_and_metadata(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("demo")
    assert client.is_model_ready("demo", "1")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["name"] == "pointsman"
    metadata = client.get_model_metadata("demo")
    assert metadata["inputs"] == [{"name": "text_input", "datatype": "BYTES", "shape": [-1]}]
    assert [output["name"] for output in metadata["outputs"]] == ["text_output", "score", "spans"]


@pytest.mark.parametrize("sent_binary", [True, False])
@pytest.mark.parametrize("wanted_binary", [True, False, None])
def test_inference_gives_what_the_library_gives(client, library, sent_binary, wanted_binary):
    names = ("text_output", "score", "spans")
    wanted = None
    if wanted_binary is not None:
        wanted = [triton.InferRequestedOutput(name, binary_data=wanted_binary) for name in names]
    parameters = {"num_beams": 3, "num_return_sequences": 2}
    answer = client.infer("demo", texts(TEXT, OTHER, binary=sent_binary), outputs=wanted, parameters=parameters)
    fills = [library.infill(text, **parameters) for text in (TEXT, OTHER)]
    output = answer.as_numpy("text_output")
    assert output.shape == (2, 2)
    decoded = [[text if isinstance(text, str) else text.decode() for text in row] for row in output]
    assert decoded == [[fill.text for fill in row] for row in fills]
    np.testing.assert_array_equal(answer.as_numpy("score"), np.float32([[fill.score for fill in row] for row in fills]))
    assert json.loads(answer.as_numpy("spans")[0, 0])[0]["text"] == fills[0][0].spans[0].text


def test_a_single_output_and_an_id(client):
    answer = client.infer("demo", texts(OTHER), request_id="7", outputs=[triton.InferRequestedOutput("score")])
    assert answer.get_response()["id"] == "7"
    assert answer.as_numpy("text_output") is None
    assert answer.as_numpy("score").shape == (1, 1)


def test_asking_at_once(served):
    with triton.InferenceServerClient(served.url.removeprefix("http://"), concurrency=4) as client:
        pending = [client.async_infer("demo", texts(text)) for text in (TEXT, OTHER) * 4]
        answers = [one.get_result().as_numpy("text_output")[0, 0] for one in pending]
    assert answers[:2] * 4 == answers


@pytest.mark.parametrize(
    ("given", "keywords", "sentence"),
    [
        ("no blank", {}, "the text has no blank"),
        (TEXT, {"model_name": "other"}, "there is no model of this name; there are demo"),
        (TEXT, {"model_version": "2"}, "there is no version of this name; there is 1"),
        (TEXT, {"parameters": {"beams": 2}}, "parameters.beams is no field; did you mean num_beams?"),
        (TEXT, {"timeout": 1}, "the answer was not there after"),
        (
            TEXT,
            {"outputs": [triton.InferRequestedOutput("text")]},
            "there is no output text; there are text_output, sc",
        ),
        (TEXT, {"request_compression_algorithm": "gzip"}, "the body is compressed; send it as it is"),
    ],
)
def test_what_is_refused(client, given, keywords, sentence):
    with pytest.raises(InferenceServerException, match=sentence):
        client.infer(**{"model_name": "demo", "inputs": texts(given), **keywords})


def tensor(**changes):
    one = {"name": "text_input", "shape": [1], "datatype": "BYTES", "data": [OTHER]}
    return {name: value for name, value in {**one, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ([], "there must be one input, text_input"),
        ([tensor(name="text")], "there must be one input, text_input"),
        ([tensor(), tensor()], "there must be one input, text_input"),
        ([tensor(datatype="INT32")], "input text_input must be of datatype BYTES"),
        ([tensor(data=None)], "input text_input needs either data or binary_data_size"),
        ([tensor(parameters={"binary_data_size": 1})], "input text_input needs either data or binary_data_size"),
        ([tensor(shape=[2])], "input text_input has 1 elements, and its shape says otherwise"),
        ([tensor(shape=[2**31 - 1] * 4)], "input text_input has 1 elements"),
        ([tensor(shape=[-1])], "inputs.0.shape.0 is too small; use 0 or more"),
        ([tensor(data=[1])], "elements of BYTES must be strings"),
        ([tensor(data=[])], "input text_input has 0 elements"),
        ([tensor(data=[], shape=[0])], "there is no text; give at least one"),
        ([tensor(data=None, parameters={"binary_data_size": 5})], "the body ends 5 bytes before a tensor does"),
    ],
)
def test_tensors_that_are_none(http, tensors, sentence):
    answer = http.post("/v2/models/demo/infer", json={"inputs": tensors})
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]


@pytest.mark.parametrize(
    ("binary", "sentence"),
    [
        (b"\1\0\0\0\xff", "an element of a binary tensor is not UTF-8"),
        (b"\1\0\0", "a binary tensor ends within the length of an element"),
        (b"\xff\xff\xff\xff....", "a binary tensor ends within an element"),
        (b"\1\0\0\0ab\0\0\0", "a binary tensor ends within"),
    ],
)
def test_binary_tensors_that_are_none(http, binary, sentence):
    head = json.dumps({"inputs": [tensor(data=None, parameters={"binary_data_size": len(binary)})]}).encode()
    lengths = {"Inference-Header-Content-Length": str(len(head))}
    answer = http.post("/v2/models/demo/infer", content=head + binary, headers=lengths)
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]
    more = http.post("/v2/models/demo/infer", content=head + binary + b"\0", headers=lengths)
    assert more.status_code == 400


@pytest.mark.parametrize("length", ["-1", "x", "99999999999999999999999", "1e3", "\u0663"])
def test_lengths_of_the_header_that_are_none(http, length):
    body = json.dumps({"inputs": [tensor()]}).encode()
    headers = {"Inference-Header-Content-Length": length.encode()}
    answer = http.post("/v2/models/demo/infer", content=body, headers=headers)
    assert answer.status_code == 400
    assert "Inference-Header-Content-Length is no length within the body" in answer.json()["error"]


def test_nested_data_and_fewer_fills_than_asked_for(http, library):
    parameters = {"num_beams": 40, "num_return_sequences": 40, "max_new_tokens": 2}
    body = {"inputs": [tensor(data=[[OTHER]], shape=[1, 1])], "parameters": parameters}
    outputs = http.post("/v2/models/demo/infer", json=body).json()["outputs"]
    assert {tuple(output["shape"]) for output in outputs} == {(1, 40)}
    fills = library.infill(OTHER, **parameters)
    assert outputs[0]["data"][: len(fills)] == [fill.text for fill in fills]
    assert set(outputs[0]["data"][len(fills) :]) <= {""}


def test_generate(http, library):
    body = {"id": "a", "text_input": TEXT, "parameters": {"num_beams": 3}}
    answer = http.post("/v2/models/demo/generate", json=body).json()
    best = library.infill(TEXT, num_beams=3)[0]
    assert (answer["id"], answer["text_output"], answer["score"]) == ("a", best.text, best.score)
    refused = http.post(
        "/v2/models/demo/generate", json={"text_input": TEXT, "parameters": {"num_return_sequences": 2}}
    )
    assert refused.json() == {"error": "generate gives one fill; use infer for several"}


def test_generate_stream(http, library):
    answer = http.post("/v2/models/demo/versions/1/generate_stream", json={"text_input": TEXT})
    events = [json.loads(block.removeprefix("data: ")) for block in answer.text.split("\n\n") if block]
    assert [one["text_output"] for one in events[:2]] == [
        "The old walks in <extra_id_1> park.",
        "The old walks in the park.",
    ]
    assert events[-1]["text_output"] == library.infill(TEXT)[0].text
    assert events[-1]["spans"]


def test_curl(served):
    command = ["curl", "--silent", "--show-error", "--fail", f"{served.url}/v2/models/demo/generate", "--json"]
    done = subprocess.run([*command, json.dumps({"text_input": TEXT})], capture_output=True, check=True)
    assert json.loads(done.stdout)["text_output"] == "The old walks in the park."
    assert httpx2.get(f"{served.url}/v2/health/ready").json() == {"ready": True}

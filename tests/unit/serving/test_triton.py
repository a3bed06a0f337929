"""A model repository of Triton: its configuration in Triton's own schema, and its model as the server calls it."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import host_triton
import numpy as np
import pytest
from google.protobuf import json_format, text_format

from conftest import installed
from pointsman import BundleError, OptionsError, OutputExistsError
from pointsman_export import export_triton

TEXT = "The <extra_id_0> waits by <extra_id_1> box."
LONG = {"max_new_tokens": 400, "min_new_tokens": 400, "constrain": False}


def file_as_module(name: str, path: Path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def configuration(folder: Path):
    # The schema alone: the package that it is in asks for gRPC.
    client = Path(importlib.util.find_spec("tritonclient").submodule_search_locations[0])
    schema = sys.modules.get("model_config_pb2") or file_as_module(
        "model_config_pb2", client / "grpc/model_config_pb2.py"
    )
    sys.modules["model_config_pb2"] = schema
    return text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())


@pytest.fixture(scope="module")
def repository(tiny_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    export_triton(tiny_bundle, folder, name="tiny")
    return folder


@pytest.fixture(scope="module")
def model(repository):
    sys.modules["triton_python_backend_utils"] = host_triton.module()
    model = file_as_module("model", repository / "tiny/1/model.py").TritonPythonModel()
    config = json_format.MessageToDict(configuration(repository / "tiny"), preserving_proto_field_name=True)
    where = {"model_repository": str(repository / "tiny"), "model_version": "1", "model_name": "tiny"}
    model.initialize({**where, "model_config": json.dumps(config), "model_instance_kind": "CPU"})
    yield model
    model.finalize()


def test_the_configuration_is_one_of_tritons(repository):
    config = configuration(repository / "tiny")
    assert (config.name, config.backend, config.max_batch_size) == ("tiny", "python", 0)
    assert config.model_transaction_policy.decoupled
    assert [one.name for one in config.input] == ["text_input"]
    assert [(one.name, list(one.dims)) for one in config.output] == [
        ("text_output", [-1, -1]),
        ("score", [-1, -1]),
        ("spans", [-1, -1]),
    ]
    assert config.parameters["bundle"].string_value == "bundle"


def test_files_are_copied(repository, tiny_bundle):
    """A link would have ONNX Runtime refuse weights of both bundles."""
    weights = "variants/float32/weights.bin"
    for place in (tiny_bundle / weights, repository / "tiny/1/bundle" / weights):
        assert place.stat().st_nlink == 1


def answer(model, *texts, **parameters):
    request = host_triton.InferenceRequest(*texts, **parameters)
    assert model.execute([request]) is None
    return request.outcome()


@pytest.mark.parametrize(
    "parameters", [{}, {"num_beams": 3, "num_return_sequences": 2}, {"do_sample": True, "seed": 1}]
)
def test_fills_are_those_of_the_library(model, infiller, parameters):
    (response,) = answer(model, TEXT.encode(), **parameters)
    texts, scores, spans = (tensor.as_numpy() for tensor in response.output_tensors)
    fills = infiller.infill(TEXT, **parameters)
    assert [[text.decode() for text in row] for row in texts] == [[fill.text for fill in fills]]
    np.testing.assert_array_equal(scores, np.float32([[fill.score for fill in fills]]))
    assert json.loads(spans[0, 0])[0]["text"] == fills[0].spans[0].text
    assert texts.dtype == np.object_


def test_requests_of_one_call(model):
    requests = [host_triton.InferenceRequest(TEXT.encode()) for _ in range(4)]
    model.execute(requests)
    texts = {request.outcome()[0].output_tensors[0].as_numpy()[0, 0] for request in requests}
    assert len(texts) == 1


def test_streams(model, infiller):
    *spans, last = answer(model, TEXT.encode(), stream=True)
    expected = [span.text for span in infiller.stream(TEXT)]
    assert [one.output_tensors[0].as_numpy()[0, 0].decode() for one in spans] == expected
    assert last.output_tensors[0].as_numpy()[0, 0].decode() == infiller.infill(TEXT)[0].text


@pytest.mark.parametrize(
    ("text", "parameters", "sentence"),
    [
        (b"no blank", {}, "the text has no blank"),
        (b"\xff", {}, "an element of text_input is not UTF-8"),
        (TEXT.encode(), {"beams": 2}, "beams is no decoding option"),
        (TEXT.encode(), {"num_beams": 0}, "num_beams is 0"),
    ],
)
def test_what_is_refused(model, text, parameters, sentence):
    (response,) = answer(model, text, **parameters)
    assert response.error.code == host_triton.TritonError.INVALID_ARG
    assert sentence in response.error.message_


def test_a_client_that_goes_away(model):
    request = host_triton.InferenceRequest(TEXT.encode(), **LONG)
    request.has_left = True
    model.execute([request])
    began = time.monotonic()
    (response,) = request.outcome()
    assert response.error.code == host_triton.TritonError.CANCELLED
    assert time.monotonic() - began < 5
    assert answer(model, TEXT.encode())


def test_the_command(tiny_bundle, tmp_path):
    command = [
        installed("pointsman-export"),
        "triton",
        tiny_bundle,
        "-o",
        tmp_path,
        "--gpu",
        "--variant",
        "fused-float32",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"wrote {tmp_path / tiny_bundle.name}\n"
    config = configuration(tmp_path / tiny_bundle.name)
    assert config.instance_group[0].kind == config.instance_group[0].KIND_GPU
    assert config.parameters["variant"].string_value == "fused-float32"


def test_what_is_there_stays(tiny_bundle, tmp_path):
    (tmp_path / "other").mkdir()
    export_triton(tiny_bundle, tmp_path, name="one")
    with pytest.raises(OutputExistsError, match="is already there; replace it with `force=True`"):
        export_triton(tiny_bundle, tmp_path, name="one")
    export_triton(tiny_bundle, tmp_path, name="one", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other"]


def test_what_cannot_be_written(tiny_bundle, tmp_path):
    with pytest.raises(OptionsError, match="'a/b' is no name of a model"):
        export_triton(tiny_bundle, tmp_path, name="a/b")
    with pytest.raises(BundleError, match="has no variant fused-int3; it has fused-float32"):
        export_triton(tiny_bundle, tmp_path, variant="fused-int3")

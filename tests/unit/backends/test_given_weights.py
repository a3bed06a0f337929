"""Integer weights given as unsigned bytes: the same answers to the last bit, and nothing of them kept."""

import errno
import gc
import io
import os
import shutil
import weakref

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from last_bits import INPUTS, PLENTY, answers, branches
from onnx import TensorProto, helper

from pointsman import DecodingOptions, SwitchModel
from pointsman.backends.onnxruntime.models.unsigned_weights import with_unsigned_weights
from pointsman.backends.onnxruntime.weights import given, saturation
from pointsman.backends.onnxruntime.weights.given import given_unsigned, given_weights_are_laid_out
from pointsman.bundle import names, read_manifest
from pointsman.errors import BundleError, DeviceError
from pointsman_calib import quantize

SIZE = 16
INITIALIZER = helper.make_tensor("w", TensorProto.INT8, [SIZE, SIZE], bytes(SIZE * SIZE), raw=True)


@pytest.fixture(scope="module")
def bundle(exports, tmp_path_factory):
    folder = shutil.copytree(exports("all-sparse").folder, tmp_path_factory.mktemp("given") / "bundle")
    for scheme in ("int8", "int4"):
        quantize(folder, scheme)
    return folder


@pytest.fixture
def saturating(monkeypatch):
    """Have products made exact as where they saturate: it gives the same on every processor."""
    monkeypatch.setattr(saturation, "products_saturate", lambda: True)
    monkeypatch.setattr(given, "products_saturate", lambda: True)


def loaded(bundle, variant="fused-int8", **options):
    return SwitchModel.load(bundle, "cpu", variant, threads=1, **options)


@pytest.mark.usefixtures("saturating")
@pytest.mark.parametrize(
    ("variant", "options"),
    [("fused-int8", {}), ("fused-int4", {}), ("fused-int8", {"max_memory": PLENTY}), ("fused-int8", {"routing": True})],
)
def test_answers_are_those_of_weights_that_the_engine_makes_unsigned(bundle, variant, options, monkeypatch):
    asked = []
    monkeypatch.setattr(given, "_unsigned", lambda *of, make=given._unsigned: asked.append(of) or make(*of))
    with loaded(bundle, variant, **options) as model:
        found = answers(model)
    assert len(asked) == 2  # encoder and decoder
    monkeypatch.setattr(given, "given_weights_are_laid_out", lambda: False)
    with loaded(bundle, variant, **options) as model:
        assert found == answers(model)
    assert len(asked) == 2


@pytest.mark.usefixtures("saturating")
def test_what_was_given_is_freed(bundle, monkeypatch):
    memories = []

    def fresh(size, make=given._fresh_memory):
        memory = make(size)
        memories.append(weakref.ref(memory))
        return memory

    monkeypatch.setattr(given, "_fresh_memory", fresh)
    with loaded(bundle) as model:
        gc.collect()
        assert [memory() for memory in memories] == [None, None]
        model.generate(INPUTS, DecodingOptions(max_new_tokens=3))


@pytest.mark.usefixtures("saturating")
def test_a_file_that_is_cut_off(bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    weights = copy / names.weights_file("int8")
    with weights.open("rb+") as file:
        file.truncate(weights.stat().st_size // 4)
    with pytest.raises(BundleError, match=r"weights\.bin is cut off; copy the bundle again"):
        loaded(copy, verify=False)


@pytest.mark.usefixtures("saturating")
def test_a_machine_without_that_much_memory(bundle, monkeypatch):
    def none(size):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(given, "_fresh_memory", none)
    with pytest.raises(DeviceError, match="this machine is out of memory"):
        loaded(bundle)


def test_graphs_differ_in_products_and_their_weights_alone(bundle):
    variant = read_manifest(bundle).variants["fused-int8"]
    for graph in (variant.encoder, variant.decoder):
        original = (bundle / graph.file).read_bytes()
        changed, weights = with_unsigned_weights(original)
        model, found = onnx.ModelProto.FromString(changed), {}
        (zero,) = [tensor for tensor in model.graph.initializer if tensor.name == "unsigned/zero"]
        assert (zero.data_type, zero.raw_data) == (TensorProto.UINT8, bytes((128,)))
        model.graph.initializer.remove(zero)
        for one in (model.graph, *branches(model.graph)):
            products = [node for node in one.node if node.op_type == "MatMulIntegerToFloat"]
            multiplied = {node.input[1] for node in products}
            for node in products:
                assert node.input.pop() == "unsigned/zero"
            for tensor in one.initializer:
                if tensor.name in multiplied:
                    found[tensor.name.encode()] = tuple(tensor.dims)
                    assert tensor.data_type == TensorProto.UINT8
                    tensor.data_type = TensorProto.INT8
        assert {weight.name: weight.shape for weight in weights} == found
        assert model == onnx.ModelProto.FromString(original)


def external(tensor):
    stored = TensorProto()
    stored.CopyFrom(tensor)
    stored.ClearField("raw_data")
    stored.data_location = TensorProto.EXTERNAL
    for key, value in (("location", names.WEIGHTS), ("offset", "0"), ("length", str(SIZE * SIZE))):
        stored.external_data.add(key=key, value=value)
    return stored


def model_of(weight, *more_nodes):
    """A product with a weight, and whatever else is done."""
    product = helper.make_node("MatMulIntegerToFloat", ["x", "w", "one", "one", "zero"], ["y"], domain="com.microsoft")
    return helper.make_model(helper.make_graph([product, *more_nodes], "g", [], [], [weight])).SerializeToString()


def test_what_is_given():
    (weight,) = with_unsigned_weights(model_of(external(INITIALIZER)))[1]
    assert (weight.name, weight.shape) == (b"w", (SIZE, SIZE))


@pytest.mark.parametrize(
    "model",
    [
        model_of(INITIALIZER),
        model_of(external(helper.make_tensor("w", TensorProto.UINT8, [SIZE, SIZE], bytes(SIZE * SIZE), raw=True))),
        model_of(external(helper.make_tensor("w", TensorProto.INT8, [1, SIZE, SIZE], bytes(SIZE * SIZE), raw=True))),
        model_of(external(INITIALIZER), helper.make_node("Identity", ["w"], ["z"])),
        model_of(external(INITIALIZER), helper.make_node("MatMulIntegerToFloat", ["w", "v"], ["z"])),
        model_of(external(helper.make_tensor("v", TensorProto.INT8, [SIZE, SIZE], bytes(SIZE * SIZE), raw=True))),
    ],
    ids=["in the graph", "unsigned", "several matrices", "used elsewhere", "multiplied elsewhere", "from elsewhere"],
)
def test_what_stays_as_it_is(model):
    assert with_unsigned_weights(model) == (model, [])


def test_the_graph_is_what_it_is_said_to_be():
    graph = ir.load(given._GRAPH).graph
    products = [node for node in graph.all_nodes() if node.op_type == "MatMulIntegerToFloat"]
    assert sorted(product.inputs[1].name for product in products) == sorted(given._WEIGHTS)
    for product in products:
        weight = product.inputs[1]
        assert weight.name in product.graph.initializers
        assert weight.const_value.numpy().dtype == np.uint8
        np.testing.assert_array_equal(weight.const_value.numpy(), np.full((SIZE, SIZE), given._CONTENT))
    assert [node.op_type for node in graph] == ["MatMulIntegerToFloat", "If", "Add"]


def test_weights_are_laid_out_when_a_session_is_loaded():
    """With the engine that the tests run; were it not so, weights would be left to it."""
    assert given_weights_are_laid_out()


def test_an_engine_that_reads_what_it_was_given_is_found_out(monkeypatch):
    class Reading:
        def __init__(self, graph, options, providers):
            self.options = options

        def run(self, names, feeds):
            assert names is None
            content = {name: value.numpy()[0, 0] for name, value in self.options.given.items()}
            return [np.full((1, SIZE), SIZE * (content["outermost"] + content["last"]))]

    class Options:
        def __init__(self):
            self.given = {}

        def add_initializer(self, name, value):
            self.given[name] = value

    monkeypatch.setattr(given.onnxruntime, "InferenceSession", Reading)
    monkeypatch.setattr(given.onnxruntime, "SessionOptions", Options)
    assert not given_weights_are_laid_out.__wrapped__()


def test_nothing_is_given_where_products_are_exact(monkeypatch, tmp_path):
    monkeypatch.setattr(given, "products_saturate", lambda: False)
    model = model_of(external(INITIALIZER))
    with given_unsigned(model, tmp_path / "none", None) as prepared:
        assert prepared is model


class Slow(io.BytesIO):
    """A file that gives three bytes at a time, as a system gives no more than 2 GiB."""

    def readinto(self, buffer):
        return super().readinto(memoryview(buffer)[:3])


@pytest.mark.parametrize(("size", "is_whole"), [(10, True), (11, False)])
def test_a_file_that_gives_a_part_at_a_time(size, is_whole):
    array = np.zeros(size, np.uint8)
    assert given._filled(array.data, Slow(bytes(range(10)))) == is_whole
    assert array[:10].tolist() == [*range(10)]

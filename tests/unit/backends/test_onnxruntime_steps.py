"""Steps on ONNX Runtime: the cache is written in place, grows rarely, and follows beams, on host and device."""

import tracemalloc

import numpy as np
import onnx
import onnxruntime
import pytest

from pointsman.backends.onnxruntime import session
from pointsman.backends.onnxruntime.backend import OnnxRuntimeBackend
from pointsman.backends.onnxruntime.caches import DeviceCache
from pointsman.backends.onnxruntime.gathering import Gathering, _model
from pointsman.bundle import empty_cache, names, whole_targets
from tolerances import FORMS as BETWEEN_FORMS

SOURCES = np.array([[5, 9, 33, 1], [7, 20, 1, 0]])
MASK = (SOURCES != 0).astype(np.int64)


@pytest.fixture(scope="module")
def bundle(exports):
    return exports("tied")


def opened(bundle) -> OnnxRuntimeBackend:
    (variant,) = bundle.manifest.variants.values()
    return OnnxRuntimeBackend(bundle.folder, variant, device="cpu", threads=1)


def tokens(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(2, 128, shape)


def test_steps_write_into_the_cache_in_place(bundle, monkeypatch, capfd):
    """The engine warns of each copy, where it is let; where nothing is bound, it has to copy."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 2
    monkeypatch.setattr(session, "_options", lambda: options)
    model = opened(bundle)
    state = model.encode(SOURCES, MASK, rows=2, room=9)
    for column in tokens(9, 2, 1):
        state.step(column, np.arange(2))
    assert "TensorScatter" not in capfd.readouterr().err
    inputs = model.variant.decoder.inputs
    cross = [np.zeros(spec.shape({"batch": 2, "source": 4}), np.float32) for spec in model.variant.encoder.outputs]
    feeds = {names.INPUT_IDS: tokens(2, 1), names.ATTENTION_MASK: MASK, **whole_targets(inputs, 2, 1)}
    feeds |= {spec.name: value for spec, value in zip(model.variant.encoder.outputs, cross, strict=True)}
    model.decoder.run(None, feeds)
    assert "TensorScatter" in capfd.readouterr().err


def test_a_steady_step_allocates_nothing(bundle):
    """But for a few objects: neither logits nor caches nor what is fed."""
    state = opened(bundle).encode(SOURCES, MASK, rows=8, room=40)
    fed, own_rows = tokens(8, 1), np.arange(8)
    for _ in range(3):
        state.step(fed, own_rows)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(20):
        state.step(fed, own_rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    logits = 8 * 128 * 4
    assert peak - before < logits


def test_the_cache_grows_by_as_much_as_is_needed_and_keeps_what_it_holds(bundle):
    together, one_by_one = (opened(bundle).encode(SOURCES, MASK, rows=2, room=70) for _ in range(2))
    fed = tokens(2, 70)
    whole = together.step(fed, np.arange(2))
    for position in range(70):
        step = one_by_one.step(fed[:, [position]], np.arange(2))
        BETWEEN_FORMS.check(step[:, 0], whole[:, position], f"position {position}")
    (capacity,) = {array.shape[2] for array in one_by_one._cache._arrays.values()}
    assert capacity == 96


def test_a_cache_on_a_device_follows_beams_as_one_on_the_host(bundle, monkeypatch):
    """The CPU in the place of the device: graph, bindings and order are those of CUDA."""
    model, random = opened(bundle), np.random.default_rng(3)
    on_host = model.encode(SOURCES, MASK, rows=6, room=12)
    monkeypatch.setattr(model, "_gathering", Gathering("float32", "cpu"))
    on_device = model.encode(SOURCES, MASK, rows=6, room=12)
    for step in range(12):
        rows = np.arange(6) if step == 0 else random.integers(0, 3, 6) + np.repeat([0, 3], 3)
        fed = random.integers(2, 128, (6, 1))
        BETWEEN_FORMS.check(on_device.step(fed, rows), on_host.step(fed, rows), f"step {step}")


def test_a_cache_on_a_device_has_its_room_from_the_beginning(bundle):
    (variant,) = bundle.manifest.variants.values()
    for room, capacity in ((1, 64), (64, 64), (65, 128), (300, 512)):
        cache = DeviceCache(variant.decoder, 3, room, Gathering("float32", "cpu"))
        like = empty_cache(variant.decoder.caches, 3, capacity)
        for value, zeros in zip(cache._values, like.values(), strict=True):
            np.testing.assert_array_equal(value.numpy(), zeros)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_are_gathered_by_a_graph_of_ours(dtype):
    onnx.checker.check_model(onnx.load_from_string(_model(1)), full_check=True)
    values = np.random.default_rng(0).standard_normal((5, 3, 4, 2)).astype(dtype)
    gathered = Gathering(dtype, "cpu").run(onnxruntime.OrtValue.ortvalue_from_numpy(values), np.array([4, 0, 0]))
    np.testing.assert_array_equal(gathered.numpy(), values[[4, 0, 0]])

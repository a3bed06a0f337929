"""Steps on ONNX Runtime: the cache is written in place, grows rarely, and follows beams."""

import tracemalloc

import numpy as np
import onnxruntime
import pytest

from pointsman.backends.onnxruntime import session
from pointsman.backends.onnxruntime.backend import OnnxRuntimeBackend
from pointsman.bundle import names, whole_targets
from tolerances import FORMS as BETWEEN_FORMS

SOURCES = np.array([[5, 9, 33, 1], [7, 20, 1, 0]])
MASK = (SOURCES != 0).astype(np.int64)


@pytest.fixture(scope="module")
def bundle(exports):
    return exports("tied")


def opened(bundle) -> OnnxRuntimeBackend:
    (variant,) = bundle.manifest.variants.values()
    return OnnxRuntimeBackend(bundle.folder, variant, threads=1)


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
    session.session(bundle.folder / model.variant.decoder.file, "cpu", 1).run(None, feeds)
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

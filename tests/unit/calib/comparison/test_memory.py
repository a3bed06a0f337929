"""How many variants a comparison holds at once, by the sessions of ONNX Runtime that are alive."""

import threading
import weakref
from pathlib import Path

import onnxruntime
import pytest

from pointsman.backends.onnxruntime import backend, session
from pointsman_calib.comparison import compare

WEIGHTS = "session.model_external_initializers_file_folder_path"


@pytest.fixture
def loaded(monkeypatch):
    """Whenever a session is made: the folders of the variants that are loaded whole, and in pieces."""
    alive, moments, lock, inside = weakref.WeakKeyDictionary(), [], threading.Lock(), threading.local()

    class Counted(onnxruntime.InferenceSession):
        def __init__(self, model, options=None, *arguments, **keywords):
            super().__init__(model, options, *arguments, **keywords)
            is_file = isinstance(model, (str, Path))
            folder = Path(model).parent if is_file else Path(options.get_session_config_entry(WEIGHTS))
            with lock:
                alive[self] = (getattr(inside, "whole", False), folder.name)
                moments.append([{name for kind, name in alive.values() if kind is each} for each in (True, False)])

    load = backend.session

    def whole(*arguments, **keywords):
        inside.whole = True
        try:
            return load(*arguments, **keywords)
        finally:
            inside.whole = False

    monkeypatch.setattr(onnxruntime, "InferenceSession", Counted)
    monkeypatch.setattr(backend, "session", whole)
    monkeypatch.setattr(session, "rows_alone_differ", lambda: False)  # it loads a graph of its own to find out
    return moments


def test_the_baseline_and_one_candidate_at_most(quantized_bundle, corpus, loaded):
    compare(quantized_bundle, corpus, generations=1)
    whole, pieces = ({frozenset(moment[kind]) for moment in loaded} for kind in (0, 1))
    assert whole == {frozenset(), *(frozenset([name]) for name in ("float32", "int8", "int4"))}
    assert {frozenset(["float32", name]) for name in ("int8", "int4")} <= pieces
    assert max(map(len, pieces)) == 2
    assert not [moment for moment in loaded if all(moment)]

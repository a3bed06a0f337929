"""An original of T5X's, and a process that commands leave as it was."""

import signal
from pathlib import Path

import pytest

from t5x_checkpoints import unpack


@pytest.fixture(autouse=True)
def _undisturbed():
    """The command sets a handler for SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return unpack("relu_tied", tmp_path_factory.mktemp("t5x")).folder

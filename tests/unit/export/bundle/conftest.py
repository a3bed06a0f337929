"""What tests of the export command share."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pointsman.bundle import Manifest
from pointsman_export.bundle import export_bundle


@pytest.fixture(autouse=True)
def _undisturbed():
    """The command sets a handler for SIGTERM, and two threads only wait for each other here."""
    before, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    signal.signal(signal.SIGTERM, before)
    torch.set_num_threads(threads)


@pytest.fixture
def export() -> Callable[..., Manifest]:
    """`export_bundle` of the fused form, unless something else is asked for."""

    def export(source: Path, target: Path, **options) -> Manifest:
        return export_bundle(source, target, **{"forms": ["fused"]} | options)

    return export


@pytest.fixture(scope="module")
def checkpoint(exports) -> Path:
    return exports.checkpoint("tied")

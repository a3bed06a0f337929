"""What several kinds of tests share: a small exported bundle, one thread a process, and the order of the files."""

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

# Matrices are small here, and processes that share the tests out have a core each: threads would wait for each other.
# Set before NumPy and torch are loaded; the commands that tests start inherit both.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")) % len(cores)]})

import pytest

# Background jobs of a shell ignore interrupts, and so would the commands that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Processes share out whole files in this order: those that begin with what takes longest end together.
_LONGEST_FIRST = ("tests/e2e/", "tests/parity/", "tests/unit/export/", "tests/contract/", "tests/unit/calib/")

if TYPE_CHECKING:
    from exports import Exports


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the kinds of tests that take longest first; within a kind the order stays."""
    items.sort(key=lambda item: _place(item.nodeid))


def _place(nodeid: str) -> int:
    matches = (place for place, kind in enumerate(_LONGEST_FIRST) if nodeid.startswith(kind))
    return next(matches, len(_LONGEST_FIRST))


def pytest_sessionfinish() -> None:
    """Keep what coverage has measured: a process that takes long to exit after its last test is killed by xdist."""
    if "coverage" in sys.modules:
        measuring = sys.modules["coverage"].Coverage.current()
        if measuring is not None and "PYTEST_XDIST_WORKER" in os.environ:
            measuring.stop()
            measuring.save()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names of tests are the same in every process: what is packed with gzip holds the time."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded checkpoint with a vocabulary, in Hugging Face form."""
    from checkpoints import CHECKPOINTS, write_checkpoint

    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny", CHECKPOINTS["tied"], tokenizer=True)


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That checkpoint's bundle, in the fused form."""
    from pointsman_export.bundle import export_bundle

    bundle: Path = tmp_path_factory.mktemp("bundles") / "tiny"
    export_bundle(tiny_checkpoint, bundle, forms=["fused"])
    return bundle


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> "Exports":
    """Gives the bundle of a named test checkpoint: `exports("tied", "portable", capacity=2)`."""
    from exports import Exports

    return Exports(tmp_path_factory.mktemp("exports"))


def installed(command: str) -> str:
    """The path of a command that installing the project put beside this Python."""
    return str(Path(sys.executable).with_name(command))

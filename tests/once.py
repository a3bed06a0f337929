"""What several test processes need, made by the first that asks for it and found by the others."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that one process of a test run makes, and all of them read.

    Nobody may change it: who wants to copies it first. Where making fails, the next process that asks tries again.

    Args:
        factory: pytest's.
        name: of the folder, the same in every process.
        make: fills the folder that it is given, which is there and empty.

    Returns:
        The folder.
    """
    own = factory.getbasetemp()
    base = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder = base / name
    with FileLock(base / f"{name}.lock"):
        if not folder.exists():
            unfinished = factory.mktemp(f"{name}-unfinished")
            make(unfinished)
            unfinished.rename(folder)
    return folder

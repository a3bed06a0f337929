"""The demo bundle as the README's commands make it, each of them run once for all tests: exported, quantized, planned.

Nobody changes these folders; a test that does copies the bundle first.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.readme import follow, of
from once import made_once


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's first command has been run: it has `build/demo`."""
    return made_once(tmp_path_factory, "demo", lambda folder: follow(folder, of("pointsman-export bundle ")))


@pytest.fixture(scope="session")
def quantized(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the variants that its commands add: `int8`, rounded to nearest, and `int8-qdq`."""
    return _next(tmp_path_factory, "quantized", demo, "pointsman-calib quantize ")


@pytest.fixture(scope="session")
def planned(quantized: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with plans of both portable variants for compute capability 8.9."""
    return _next(tmp_path_factory, "planned", quantized, "pointsman-export engines ")


def _next(factory: pytest.TempPathFactory, name: str, before: Path, program: str) -> Path:
    def make(folder: Path) -> None:
        shutil.copytree(before, folder, symlinks=True, dirs_exist_ok=True)
        follow(folder, of(program))

    return made_once(factory, name, make)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray with room for four actors, on this machine."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()

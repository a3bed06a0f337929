"""One service of the demo bundle for all tests that only ask it things."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from e2e.serving.served import Served, serving
from pointsman import Infiller


@pytest.fixture(scope="session")
def bundle(demo: Path) -> Path:
    return demo / "build/demo"


@pytest.fixture(scope="session")
def served(bundle: Path) -> Iterator[Served]:
    with serving(f"{bundle}@fused-float32", "--with-routing") as running:
        yield running


@pytest.fixture
def http(served: Served) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=served.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def library(bundle: Path) -> Infiller:
    """What the service's answers are compared with."""
    return Infiller.load(bundle, variant="fused-float32")

"""One loaded model for all tests of the service."""

from pathlib import Path

import pytest

from pointsman import Infiller


@pytest.fixture(scope="package")
def infiller(tiny_bundle: Path) -> Infiller:
    return Infiller.load(tiny_bundle, device="cpu", threads=1)

"""One small bundle and its tokenizer for all tests of the runtime that only read them."""

from pathlib import Path

import pytest
from fake_backend import wandering
from small_bundles import EXTRA_IDS, fake_infiller, write_small_bundle

from pointsman import Infiller
from pointsman.bundle import Manifest, read_manifest
from pointsman.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("bundles") / "small"
    write_small_bundle(folder)
    return folder


@pytest.fixture(scope="session")
def manifest(small_bundle: Path) -> Manifest:
    return read_manifest(small_bundle)


@pytest.fixture(scope="session")
def tokenizer(small_bundle: Path) -> Tokenizer:
    return Tokenizer.load(small_bundle / "tokenizer", extra_ids=EXTRA_IDS)


@pytest.fixture
def infiller(manifest: Manifest, tokenizer: Tokenizer) -> Infiller:
    """Over an engine that computes nothing, and says something else for each prefix."""
    return fake_infiller(manifest, tokenizer, wandering(manifest.architecture.vocab_size))

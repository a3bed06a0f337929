"""What several kinds of tests share: a small exported bundle, and one thread pool that leaves room for others."""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Background jobs of a shell ignore interrupts, and so would the commands that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


if TYPE_CHECKING:
    from exports import Exports


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded checkpoint with a vocabulary, in Hugging Face form."""
    import torch

    from checkpoints import CHECKPOINTS, write_checkpoint

    torch.set_num_threads(2)
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
    import torch

    from exports import Exports

    torch.set_num_threads(2)
    return Exports(tmp_path_factory.mktemp("exports"))


def installed(command: str) -> str:
    """The path of a command that installing the project put beside this Python."""
    return str(Path(sys.executable).with_name(command))

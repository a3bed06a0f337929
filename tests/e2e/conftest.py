"""The demo bundle, exported once by the installed command."""

import subprocess
import sys
from pathlib import Path

import pytest

from places import ROOT


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """A folder in which the README's first command of the exporter has been run."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "examples").symlink_to(ROOT / "examples")
    command = [Path(sys.executable).with_name("pointsman-export"), "bundle", "examples/demo_model", "-o", "build/demo"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return folder

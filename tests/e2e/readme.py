"""The README's commands and programs, and running them as they stand there."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from places import EXAMPLES, ROOT

README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
_BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
_LINES = [line for language, block in _BLOCKS if language == "sh" for line in block.splitlines()]
MAKES: Final = [line for line in _LINES if line.startswith("make ")]
COMMANDS: Final = [line for line in _LINES if line not in MAKES and line != ". .venv/bin/activate"]
PROGRAMS: Final = [block for language, block in _BLOCKS if language == "python"]
(SHOWN,) = (block for language, block in _BLOCKS if language == "text" and block.startswith("The "))

_SAID = "said.json"


def of(program: str) -> list[str]:
    """The commands that begin with these words."""
    return [command for command in COMMANDS if command.startswith(program)]


def follow(folder: Path, commands: Sequence[str]) -> None:
    """Run commands in a folder that has the examples, as a clone does, and keep what they print."""
    if not (folder / "examples").exists():
        (folder / "examples").symlink_to(EXAMPLES)
    (folder / _SAID).write_text(json.dumps(said(folder) | {command: sh(command, folder) for command in commands}))


def said(folder: Path) -> dict[str, str]:
    """By command, what it printed when a folder was made by `follow`."""
    path = folder / _SAID
    return json.loads(path.read_text()) if path.exists() else {}


def sh(command: str, folder: Path) -> str:
    """What a command of the README, which must not fail, prints on stdout."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=os.environ | {"PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

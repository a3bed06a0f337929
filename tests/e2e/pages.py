"""The pages under docs/, and running their examples as they stand there, one after the other."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from e2e.readme import of, sh
from e2e.serving.served import serving
from places import EXAMPLES, ROOT
from said import fits

PAGES: Final = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
_BLOCKS: Final = re.compile(r"^```(sh|python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SERVICE: Final = "http://127.0.0.1:8000"
_IN_README: Final = of("pointsman-export ")  # made `build/demo`, or takes long; run there


@dataclass(frozen=True, slots=True)
class Example:
    """A block of a page that can be run.

    Attributes:
        language: `sh` and `python` must end well; a `console` shows commands behind `$`, and what they print.
        code: As it stands there.
    """

    language: str
    code: str


def examples(page: str) -> list[Example]:
    """Those of a page, or of a section of one, in order."""
    return [Example(language, code) for language, code in _BLOCKS.findall(page)]


def follow(page: str, folder: Path) -> list[str]:
    """Run all examples of a page in a folder, which gets the project's examples; what each printed on stdout."""
    if not (folder / "examples").exists():
        (folder / "examples").symlink_to(EXAMPLES)
    with ExitStack() as services:
        url, printed = _SERVICE, []
        for example in examples(page):
            if example.language == "sh" and example.code.startswith("pointsman serve "):
                url = services.enter_context(serving(*_served(example.code, folder))).url
            else:
                code = example.code.replace(f"curl {_SERVICE}", f"curl --fail --silent {url}")
                printed.append(run(Example(example.language, code), folder))
    return printed


def run(example: Example, folder: Path) -> str:
    """Run an example, which must do what the page says; what it printed on stdout."""
    if example.language == "sh":
        lines = [line for line in example.code.splitlines() if line not in _IN_README]
        return sh("\n".join(lines), folder)
    if example.language == "console":
        return "".join(_shown(*each, folder) for each in _commands(example.code))
    done = subprocess.run([sys.executable, "-c", example.code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{example.code}{done.stderr}"
    return done.stdout


def _served(command: str, folder: Path) -> list[str]:
    """The bundles that a command serves; the port is another in each test."""
    _, _, *arguments, port, _ = shlex.split(command)
    assert port == "--port"
    named = (argument.rpartition("=") for argument in arguments)
    return [f"{name}{is_named}{folder / bundle}" for name, is_named, bundle in named]


def _commands(code: str) -> Iterator[tuple[str, str]]:
    """Each command, and what it is said to print."""
    for block in code.removeprefix("$ ").split("\n$ "):
        command, _, said = block.partition("\n")
        yield command, said.strip()


def _shown(command: str, said: str, folder: Path) -> str:
    """What a command prints on both, which must be what is said, but for what `…` stands for."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-uc", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 2, f"{command}\n{done.stdout}"
    assert fits(done.stdout.strip(), said.replace("…", "*")), f"{command}\n{done.stdout}"
    return done.stdout

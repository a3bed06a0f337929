"""The command lines of all three commands: what they refuse is an error like any other."""

import argparse
import importlib.metadata
from typing import NoReturn

from pointsman.backends.choice import DEVICES, ENGINES
from pointsman.errors import OptionsError


class Parser(argparse.ArgumentParser):
    """Parser whose complaints are errors like any other; so are those of its subcommands."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Raises:
            OptionsError: Always.
        """
        raise OptionsError(f"{message}; see {self.prog} --help")

    def add_version(self) -> None:
        """Let `--version` say which release this is; all three commands are of one."""
        version = importlib.metadata.version("pointsman")
        self.add_argument("--version", action="version", version=f"{self.prog} {version}")


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Which bundle, and what of it runs where."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder written by pointsman-export")
    parser.add_argument("--variant", metavar="V", default="auto", help="auto (default) or a name that inspect shows")
    parser.add_argument("--device", default="auto", choices=DEVICES, help="where to run (default: auto)")
    parser.add_argument("--engine", default="auto", choices=ENGINES, help="what runs it (default: auto)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def positive(text: str) -> int:
    """A whole number from 1.

    Raises:
        ArgumentTypeError: It is none.
    """
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number: use a whole number of at least 1") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is too small: use a whole number of at least 1")
    return number

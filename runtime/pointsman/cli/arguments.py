"""The command lines of all three commands: what they refuse is an error like any other."""

import argparse
import importlib.metadata
from typing import NoReturn

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

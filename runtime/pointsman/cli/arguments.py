"""The command lines of all three commands: what they refuse is an error like any other."""

import argparse
import importlib.metadata
from typing import NoReturn

from pointsman.backends.choice import DEVICES, ENGINES
from pointsman.errors import OptionsError


class Parser(argparse.ArgumentParser):
    """Parser whose complaints are errors like any other, and name what was meant; so are those of its subcommands.

    Attributes:
        rest: The argument that takes what stands behind options too, where argparse does not look for arguments that
            may be few.
    """

    rest: str | None = None
    _commands: Mapping[str, object] = MappingProxyType({})

    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Raises:
            OptionsError: Always.
        """
        raise OptionsError(f"{message}; see {self.prog} --help")

    def add_commands(self) -> "argparse._SubParsersAction[Parser]":
        """Have subcommands, of which one must be given; their parsers are of this class, and allow no abbreviations."""
        commands = self.add_subparsers(metavar="COMMAND", required=True)
        self._commands = commands.choices
        return commands

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def, override] # noqa: ANN001, ANN201
        """Parse, and refuse what is unknown here, so that the error is of the subcommand's own parser.

        Raises:
            OptionsError: The command line is wrong.
        """
        given = [*(sys.argv[1:] if args is None else args)]
        self._check_names(given)
        parsed, left = super().parse_known_args(given, namespace)
        if left and (self.rest is None or any(one.startswith("-") and one != "-" for one in left)):
            self.error(f"unrecognized arguments: {' '.join(left)}")
        if left:
            setattr(parsed, self.rest, [*getattr(parsed, self.rest), *left])
        return parsed, []

    def _check_names(self, given: Sequence[str]) -> None:
        """Refuse an option or a subcommand that there is not, before argparse says less of it."""
        for argument in given:
            name, _, _ = argument.partition("=")
            if argument == "--":
                return
            if _looks_like_option(name) and name not in self._option_string_actions:
                self.error(f"{name} is no option ({_did_you_mean(name, self._long_options())})")
            if self._commands and not argument.startswith("-"):
                if argument not in self._commands:
                    self.error(f"{argument!r} is no command; {did_you_mean(argument, self._commands)}")
                return

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

"""The command lines of all three commands: what they refuse is an error like any other."""

import argparse
import importlib.metadata
import re
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, Final, NoReturn

from pointsman.backends.choice import DEVICES, ENGINES
from pointsman.errors import BundleError, DeviceError, OptionsError, PointsmanError
from pointsman.wording import did_you_mean, nearest

_QUOTED: Final = re.compile(r"`(\w+)(?:=([^`]+))?`")
"""An option as errors name it, in Python: ```base``` or ```force=True```; commands to run have spaces or dashes."""
_BRACKETS: Final = "[]'\""
_FLAGS: Final = {
    "compute_capabilities": "compute_capability",
    "fewest_tokens": "min_expert_tokens",
    "most_thin": "max_thin_experts",
}
"""Flags of other names than Python's, as parsed command lines have them."""
_REQUIRED: Final = "the following arguments are required: "  # argparse's
_MEMORY: Final = re.compile(r"(\d+(?:\.\d+)?)([kKmMgGtT]?)B?")
_MULTIPLES: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class Parser(argparse.ArgumentParser):
    """Parser whose complaints are errors like any other, and name what was meant; so are those of its subcommands.

    Attributes:
        rest: The argument that takes what stands behind options too, where argparse does not look for arguments that
            may be few.
        examples: Command lines that its help ends with.
        hints: What to do instead of options that other commands have.
    """

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - argparse's own
        """Options are written out; all else is as in argparse."""
        super().__init__(allow_abbrev=False, **settings)
        self.rest: str | None = None
        self.examples: tuple[str, ...] = ()
        self.hints: dict[str, str] = {}
        self._commands: Mapping[str, object] = {}
        self._given: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Raises:
            OptionsError: Always.
        """
        raise OptionsError(f"{message}{self._taken(message)}; see {self.prog} --help")

    def _taken(self, message: str) -> str:
        """What to do if an option has taken the arguments that are missed."""
        missed = message.removeprefix(_REQUIRED)
        if missed == message or missed.startswith("-"):
            return ""
        options = [self._option_string_actions.get(one) for one in self._given]
        taker = next((one for one in options if one is not None and one.nargs in ("+", "*")), None)
        if taker is None:
            return ""
        name = taker.option_strings[-1]
        return f" (give {missed.partition(', -')[0]} before {name}, which takes all that stands behind it)"

    def format_help(self) -> str:
        """As argparse's, and the examples, which can be copied as they stand."""
        lines = [f"  {example}\n" for example in self.examples]
        return super().format_help() + "".join(["\nexamples:\n", *lines] if lines else [])

    def add_commands(self) -> "argparse._SubParsersAction[Parser]":
        """Have subcommands, of which one must be given."""
        commands: argparse._SubParsersAction[Parser] = self.add_subparsers(metavar="COMMAND", required=True)
        self._commands = commands.choices
        return commands

    def lack(self, option: str, hint: str) -> None:
        """Lack an option of several that were added together.

        Args:
            option: As it is written on a command line.
            hint: What to do instead.
        """
        action = self._option_string_actions.pop(option)
        self._remove_action(action)
        for group in self._action_groups:
            if action in group._group_actions:
                group._group_actions.remove(action)
        self.hints[option] = hint

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse, and leave nothing: what is unknown is refused by the parser of the subcommand that it stands behind.

        Raises:
            OptionsError: The command line is wrong.
        """
        self._given = given = sys.argv[1:] if args is None else [*args]
        self._check_names(given)
        parsed, left = super().parse_known_args(given, namespace)
        if left and (self.rest is None or any(one.startswith("-") and one != "-" for one in left)):
            self.error(f"unrecognized arguments: {' '.join(left)}")
        if self.rest is not None:
            getattr(parsed, self.rest).extend(left)
        return parsed, []

    def _check_names(self, given: Sequence[str]) -> None:
        """Refuse an option or a command that there is not, before argparse says less of it."""
        for argument in given:
            if argument in ("--", "-h", "--help", "--version"):
                return
            if argument.startswith("--"):
                self._check_option(argument)
            elif self._commands and not argument.startswith("-"):
                if argument not in self._commands:
                    self.error(f"{argument!r} is no command ({did_you_mean(argument, self._commands)})")
                return

    def _check_option(self, argument: str) -> None:
        name, _, _ = argument.partition("=")
        known = self._option_string_actions
        if name not in known and " " not in argument:  # a text may begin like an option
            meant = nearest(name, [*(option for option in known if option.startswith("--")), *self.hints])
            hint = self.hints.get(name) or self.hints.get(meant or "") or (f"did you mean {meant}?" if meant else "")
            self.error(f"{name} is no option" + (f" ({hint})" if hint else ""))

    def add_version(self) -> None:
        """Let `--version` say which release this is; all three commands are of one."""
        version = importlib.metadata.version("pointsman")
        self.add_argument(
            "--version", action="version", version=f"{self.prog} {version}", help="print the release and exit"
        )


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Which bundle, what of it runs where, and whether to print JSON."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder written by pointsman-export")
    parser.add_argument(
        "--variant",
        metavar="V",
        default="auto",
        help="a name that inspect shows, or auto: the fastest without quantization, if there is one (default: auto)",
    )
    add_place(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document, for programs")


def add_place(parser: argparse.ArgumentParser) -> None:
    """Where, and by what it is run."""
    parser.add_argument(
        "--device",
        default="auto",
        choices=DEVICES,
        help="where to run: auto is CUDA where an engine has it, else the CPU (default: auto)",
    )
    parser.add_argument(
        "--engine",
        default="auto",
        choices=ENGINES,
        help="what runs it: auto is TensorRT where there are plans for this GPU, else ONNX Runtime (default: auto)",
    )


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


def add_max_memory(parser: argparse.ArgumentParser) -> None:
    """How much memory experts may fill."""
    parser.add_argument(
        "--max-memory",
        metavar="BYTES",
        type=memory,
        help="for models larger than memory: what the process may have resident, such as 6G; experts stay on disk "
        "until a token reaches them (default: all is loaded)",
    )


def memory(text: str) -> int:
    """A number of bytes, of which K, M, G and T are decimal multiples.

    Raises:
        ArgumentTypeError: It is none.
    """
    found = _MEMORY.fullmatch(text)
    if found is None or (size := int(float(found[1]) * _MULTIPLES[found[2].upper()])) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: use bytes, or a number with K, M, G or T, such as 6G")
    return size


def in_flags(sentence: str, names: Iterable[str]) -> str:
    """A sentence about options, with these as a command line has them: `--do-sample` for `do_sample=True`."""
    any_name = "|".join(names)
    return re.sub(rf"(?<![\w/-])({any_name})(=True|=False)?(?![\w/-])", _flag, sentence) if any_name else sentence


def _flag(name: re.Match[str]) -> str:
    return ("--no-" if name[2] == "=False" else "--") + name[1].replace("_", "-")


def quoted_in_flags(sentence: str, names: Container[str]) -> str:
    """A sentence with those of its quoted options that a command has as it has them."""
    return _QUOTED.sub(lambda option: _as_given(option, names), sentence)


def _as_given(option: re.Match[str], given: Container[str]) -> str:
    """A quoted option as a flag, where the command has it: `--force` for ```force=True```."""
    name, value = _FLAGS.get(option[1], option[1]), option[2]
    if name == "variant" and value is not None and "bundles" in given:  # of `serve`
        return f"`BUNDLE@{value.strip(_BRACKETS)}`"
    if name not in given:
        return option[0]
    flag = f"--{name.replace('_', '-')}"
    return flag if value in (None, "True") else f"{flag} {value.strip(_BRACKETS)}"


def sentence_of(error: PointsmanError, parsed: argparse.Namespace | None) -> str:
    """What to say of an error to who gave a command line.

    Args:
        error: It may name options as Python does.
        parsed: The command line; None where that is what is wrong.
    """
    given = vars(parsed) if parsed is not None else {}
    sentence = quoted_in_flags(str(error), given)
    if isinstance(error, OptionsError):
        sentence = in_flags(sentence, [name for name in given if "_" in name or sentence.startswith(f"{name} is ")])
    elif isinstance(error, DeviceError | BundleError) and "max_memory" in given:
        sentence = in_flags(sentence, ["max_memory"])
    where = "|".join(name for name in ("device", "engine") if name in given)
    return re.sub(rf"\b({where}) '([\w-]+)'", r"--\1 \2", sentence) if where else sentence

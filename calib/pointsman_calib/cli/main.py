"""`pointsman-calib`: one module of this package for each subcommand.

Exit codes: 0 done, 1 a comparison failed, 2 the user's mistake (one line that says what to do), 130 interrupted,
141 the reader of stdout went away; anything else is a bug and shows its traceback.
"""

import signal
import sys
import threading
from collections.abc import Collection, Sequence
from functools import partial
from types import FrameType
from typing import Final, NoReturn

from pointsman.cli.arguments import Parser, sentence_of
from pointsman.cli.output import run_to_the_end
from pointsman.errors import PointsmanError
from pointsman_calib.cli.memory import return_large_blocks
from pointsman_calib.loading import loaded

INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it
COMMANDS: Final = {
    "ranges": "observe ranges of activations on a corpus",
    "quantize": "add a quantized variant to a bundle",
    "compare": "compare variants on text: loss, errors, agreement, size and speed",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    # A polite kill unwinds like Ctrl-C, so that nothing half-written stays; only a main thread may say so.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
    return_large_blocks()
    parsed = None
    try:
        parsed = _parser(_named(sys.argv[1:] if arguments is None else arguments)).parse_args(arguments)
        code = run_to_the_end(partial(parsed.run, parsed))
    except PointsmanError as error:
        print(f"pointsman-calib: {sentence_of(error, parsed)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        print(f"pointsman-calib: interrupted; {str(interrupt) or 'the bundle is as it was'}", file=sys.stderr)
        return INTERRUPTED
    return code


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _named(arguments: Sequence[str]) -> list[str]:
    """The subcommand of a command line, if it has one: what another one needs may not be installed."""
    return [one for one in arguments if one in COMMANDS][:1]


def _parser(commands: Collection[str] = tuple(COMMANDS)) -> Parser:
    """The command line.

    Args:
        commands: subcommands that are loaded; of the others it has the names.

    Raises:
        DependencyError: what one of them needs is not installed.
    """
    parser = Parser(prog="pointsman-calib", description="Quantize exported bundles, and measure the loss.")
    parser.add_version()
    parser.examples = (
        "pointsman-calib quantize build/demo --scheme int8 --corpus allenai/c4",
        "pointsman-calib quantize --help",
    )
    subcommands = parser.add_commands()
    for name, meaning in COMMANDS.items():
        command = subcommands.add_parser(name, help=meaning)
        if name not in commands:
            continue
        module = loaded(f"pointsman_calib.cli.{name}")
        command.description = module.DESCRIPTION
        module.add_arguments(command)
        command.examples = module.EXAMPLES
        command.set_defaults(run=module.run)
    return parser

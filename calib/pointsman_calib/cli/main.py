"""`pointsman-calib`: one subcommand for each module of `commands`.

Exit codes: 0 done, 1 a comparison failed, 2 the user's mistake (one line that says what to do), 130 interrupted;
anything else is a bug and shows its traceback.
"""

import importlib
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType, ModuleType
from typing import Final, NoReturn

from pointsman.cli.arguments import Parser
from pointsman.errors import DependencyError, PointsmanError
from pointsman_calib.cli.allocation import return_large_blocks

INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it
COMMANDS: Final = ("ranges", "quantize", "compare")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    # A polite kill unwinds like Ctrl-C, so that nothing half-written stays; only a main thread may say so.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
    return_large_blocks()
    try:
        parsed = _parser().parse_args(arguments)
        code: int = parsed.run(parsed)
    except PointsmanError as error:
        print(f"pointsman-calib: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        print(f"pointsman-calib: interrupted; {str(interrupt) or 'the bundle is as it was'}", file=sys.stderr)
        return INTERRUPTED
    return code


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _parser() -> Parser:
    parser = Parser(
        prog="pointsman-calib", description="Quantize exported bundles, and measure the loss.", allow_abbrev=False
    )
    parser.add_version()
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = _module(name)
        command = commands.add_parser(name, help=module.HELP, description=module.__doc__, allow_abbrev=False)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def _module(command: str) -> ModuleType:
    """A subcommand's module, which imports ONNX and an engine: a machine that only serves does not have all of it.

    Raises:
        DependencyError: something is not installed.
    """
    try:
        return importlib.import_module(f"pointsman_calib.cli.{command}")
    except ModuleNotFoundError as error:
        raise DependencyError(f"{error.name} is not installed; install pointsman[calib]") from error

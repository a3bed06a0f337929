"""`pointsman-calib`: one module of this package for each subcommand.

Exit codes: 0 done, 1 a comparison failed, 2 the user's mistake (one line that says what to do), 130 interrupted;
anything else is a bug and shows its traceback.
"""

import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Final, NoReturn

from pointsman.cli.arguments import Parser, sentence_of
from pointsman.errors import PointsmanError
from pointsman_calib.cli.memory import return_large_blocks
from pointsman_calib.loading import loaded

INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it
COMMANDS: Final = ("ranges", "quantize", "compare")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    # A polite kill unwinds like Ctrl-C, so that nothing half-written stays; only a main thread may say so.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
    return_large_blocks()
    parsed = None
    try:
        parsed = _parser().parse_args(arguments)
        code: int = parsed.run(parsed)
    except PointsmanError as error:
        print(f"pointsman-calib: {sentence_of(error, parsed)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        print(f"pointsman-calib: interrupted; {str(interrupt) or 'the bundle is as it was'}", file=sys.stderr)
        return INTERRUPTED
    return code


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _parser() -> Parser:
    parser = Parser(prog="pointsman-calib", description="Quantize exported bundles, and measure the loss.")
    parser.add_version()
    parser.examples = (
        "pointsman-calib quantize build/demo --scheme int8 --corpus allenai/c4",
        "pointsman-calib quantize --help",
    )
    commands = parser.add_commands()
    for name in COMMANDS:
        module = loaded(f"pointsman_calib.cli.{name}")
        command = commands.add_parser(name, help=module.HELP, description=module.__doc__)
        module.add_arguments(command)
        command.examples = module.EXAMPLES
        command.set_defaults(run=module.run)
    return parser

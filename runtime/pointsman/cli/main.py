"""The command `pointsman`: fill blanks, score candidates for them, and look into bundles.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 a comparison failed, 2 the user's mistake (one
line that says what to do), 130 interrupted, 141 the reader of stdout went away, 143 lines of a file that SIGTERM has
ended; anything else is a bug and shows its traceback.
"""

import argparse
import signal
from collections.abc import Sequence
from functools import partial
from typing import Final

from pointsman.cli.arguments import Parser, add_bundle, sentence_of
from pointsman.cli.files import add_files
from pointsman.cli.infill import add_infill
from pointsman.cli.output import Interrupted, open_stdout, report, run_to_the_end, write, write_json
from pointsman.cli.score import add_score
from pointsman.cli.serve import add_serve
from pointsman.errors import BundleError, PointsmanError
from pointsman.inspection import as_json, as_text, inspect_bundle

SIGNALLED: Final = 128  # and the number of the signal, as shells have it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: Without the program's name; the process's own where None.
    """
    parsed = None
    try:
        parsed = _parser().parse_args(arguments)
        open_stdout()
        code = run_to_the_end(partial(parsed.run, parsed))
    except PointsmanError as error:
        report(sentence_of(error, parsed))
        return error.exit_code
    except Interrupted as stop:
        report(str(stop))
        return SIGNALLED + stop.number
    except KeyboardInterrupt:
        report("interrupted")
        return SIGNALLED + signal.SIGINT
    return code


def _parser() -> Parser:
    parser = Parser(prog="pointsman", description="Fill blanks in text with Switch Transformers.")
    parser.add_version()
    parser.examples = (
        "pointsman infill examples/demo_int8 'The <extra_id_0> walks in <extra_id_1> park.'",
        "pointsman infill --help",
    )
    commands = parser.add_commands()
    add_infill(commands.add_parser("infill", help="fill the blanks of texts"))
    add_score(commands.add_parser("score", help="say how likely given spans are"))
    add_files(commands.add_parser("fill-files", help="fill files with actors of Ray"))
    add_serve(commands.add_parser("serve", help="serve bundles over HTTP"))
    _add_inspect(commands.add_parser("inspect", help="say what a bundle is and check its files"))
    return parser


def _add_inspect(parser: Parser) -> None:
    parser.description = "Say what a bundle is, verify its files, and say what would run."
    add_bundle(parser)
    parser.examples = ("pointsman inspect examples/demo_int8",)
    parser.set_defaults(run=_inspect)


def _inspect(parsed: argparse.Namespace) -> int:
    inspection = inspect_bundle(parsed.bundle, device=parsed.device, variant=parsed.variant, engine=parsed.engine)
    if parsed.json:
        write_json(as_json(inspection))
    else:
        write(as_text(inspection))
    if inspection.damage:
        raise BundleError(inspection.damage)
    return 0

"""The command `pointsman`: fill blanks, and look into bundles.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 a comparison failed, 2 the user's mistake (one
line that says what to do), 130 interrupted, 141 the reader of stdout went away; anything else is a bug and shows its
traceback.
"""

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

from pointsman.backends.choice import DEVICES, ENGINES
from pointsman.bundle import read_manifest
from pointsman.cli.arguments import Parser
from pointsman.decoding import DecodingOptions
from pointsman.errors import BundleError, OutputError, PointsmanError, TextError
from pointsman.infill import DecodingFields, Fill, Infiller, Span
from pointsman.inspection import as_json, as_text, counted, inspect_bundle
from pointsman.model import decoding_defaults

INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it
PIPE_BROKEN: Final = 141  # 128 + SIGPIPE

_EARLY_STOPPING: Final = {"true": True, "false": False, "never": "never"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: Without the program's name; the process's own where None.
    """
    try:
        parsed = _parser().parse_args(arguments)
        _open_stdout()
        code: int = parsed.run(parsed)
    except PointsmanError as error:
        _report(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _give_up_stdout()
        return PIPE_BROKEN
    return code


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="pointsman", description="Fill blanks in text with Switch Transformers.", allow_abbrev=False)
    parser.add_version()
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_infill(commands.add_parser("infill", help="fill the blanks of texts", allow_abbrev=False))
    _add_inspect(commands.add_parser("inspect", help="say what a bundle is and check its files", allow_abbrev=False))
    return parser


def _add_infill(parser: argparse.ArgumentParser) -> None:
    parser.description = "Fill the blanks of texts. Write <extra_id_0>, <extra_id_1>, ... where something is missing."
    _add_bundle(parser)
    parser.add_argument("texts", metavar="TEXT", nargs="+", help="a text with blanks, or - for each line of stdin")
    parser.add_argument("--threads", metavar="N", type=_positive, help="CPU threads (default: the engine's)")
    parser.add_argument(
        "--batch-size", metavar="N", type=_positive, default=8, help="texts decoded together (default: 8)"
    )
    _add_decoding(parser.add_argument_group("decoding"))
    parser.set_defaults(run=_infill)


def _add_decoding(group: argparse._ArgumentGroup) -> None:
    """An option for every field of `DecodingOptions`; those left out of the command line stay out of the result."""
    group.description = "What the checkpoint itself says (pointsman inspect shows it) goes before these defaults."
    for name, kind, meaning in (
        ("max_new_tokens", int, "most tokens to generate for a text (default: 8 a blank and 2, at least 32)"),
        ("min_new_tokens", int, "fewest tokens to generate for a text"),
        ("num_beams", int, "beams to search with; 1 is greedy (default: 1)"),
        ("num_return_sequences", int, "fills to return for each text (default: 1)"),
        ("length_penalty", float, "above 0 favours longer output (default: 1.0)"),
        ("temperature", float, "of sampling (default: 1.0)"),
        ("top_k", int, "sample from this many of the likeliest tokens; 0 from all (default: 50)"),
        ("top_p", float, "sample from the likeliest tokens that reach this probability (default: 1.0)"),
        ("seed", int, "the same seed gives the same samples"),
        ("repetition_penalty", float, "above 1 makes repeated tokens less likely (default: 1.0)"),
        ("no_repeat_ngram_size", int, "no sequence of this many tokens occurs twice; 0 allows it (default: 0)"),
    ):
        metavar = "N" if kind is int else "X"
        group.add_argument(_flag(name), type=kind, metavar=metavar, default=argparse.SUPPRESS, help=meaning)
    group.add_argument(
        "--early-stopping",
        choices=_EARLY_STOPPING,
        default=argparse.SUPPRESS,
        help="when beam search stops (default: false)",
    )
    group.add_argument(
        "--do-sample",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="draw tokens instead of taking the likeliest (default: no)",
    )
    group.add_argument(
        "--constrain",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="fill every blank, with text only (default: yes)",
    )


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.description = "Say what a bundle is, verify its files, and say what would run."
    _add_bundle(parser)
    parser.set_defaults(run=_inspect)


def _add_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="folder written by pointsman-export")
    parser.add_argument("--variant", metavar="V", default="auto", help="auto (default) or a name that inspect shows")
    parser.add_argument("--device", default="auto", choices=DEVICES, help="where to run (default: auto)")
    parser.add_argument("--engine", default="auto", choices=ENGINES, help="what runs it (default: auto)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number: use a whole number of at least 1") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is too small: use a whole number of at least 1")
    return number


def _infill(parsed: argparse.Namespace) -> int:
    decoding = _decoding(parsed)
    texts = list(_texts(parsed.texts))
    infiller = Infiller.load(parsed.bundle, parsed.device, parsed.variant, engine=parsed.engine, threads=parsed.threads)
    began = time.perf_counter()
    results: list[dict[str, Any]] = []
    for text, fills in zip(texts, infiller.infill_in_batches(texts, parsed.batch_size, **decoding), strict=True):
        if parsed.json:
            results.append({"text": text, "fills": [asdict(fill) for fill in fills]})
        else:
            _print("".join(map(_shown, fills)))
    choice = infiller.model.choice
    if parsed.json:
        _write_json({"variant": choice.variant, "device": choice.device, "results": results})
    seconds = time.perf_counter() - began
    _report(f"{counted(len(texts), 'text')} filled in {seconds:.2f} s with {choice.variant} on {choice.device}")
    return 0


def _decoding(parsed: argparse.Namespace) -> DecodingFields:
    """The decoding options of the command line; bad ones are refused here, before anything is loaded."""
    names = {field.name for field in fields(DecodingOptions)}
    given: Any = {name: value for name, value in vars(parsed).items() if name in names}
    if "early_stopping" in given:
        given["early_stopping"] = _EARLY_STOPPING[given["early_stopping"]]
    decoding: DecodingFields = given
    # The default of `max_new_tokens` depends on the texts.
    DecodingOptions.over(_defaults(parsed.bundle), decoding, room=sys.maxsize)
    return decoding


def _defaults(bundle: str) -> DecodingFields:
    """What the bundle says of decoding; nothing if it cannot be read, which loading it reports."""
    try:
        return decoding_defaults(read_manifest(Path(bundle)))
    except PointsmanError:
        return {}


def _texts(arguments: Sequence[str]) -> Iterator[str]:
    """The texts to fill; `-` stands for the lines of stdin that are not empty."""
    for argument in arguments:
        if argument != "-":
            yield argument
            continue
        if sys.stdin is None:
            raise TextError("stdin is closed; send the texts to it as lines, or give them in place of -")
        for line in sys.stdin.buffer:
            # Bytes that are not UTF-8 become lone surrogates, which the tokenizer refuses with a sentence.
            text = line.decode("utf-8", errors="surrogateescape").removesuffix("\n").removesuffix("\r")
            if text:
                yield text


def _shown(fill: Fill) -> str:
    """A fill for people: the text as it is, then its score and spans indented."""
    width = max(len(_sentinel(span)) for span in fill.spans)
    lines = [fill.text, f"    {'score':{width}}  {fill.score:8.3f}"]
    for span in fill.spans:
        state = "" if span.state == "complete" else f"  ({span.state})"
        quoted = json.dumps(span.text, ensure_ascii=False)
        lines.append(f"    {_sentinel(span):{width}}  {span.score:8.3f}  {quoted}{state}")
    return "\n".join(lines) + "\n"


def _sentinel(span: Span) -> str:
    return f"<extra_id_{span.index}>"


def _inspect(parsed: argparse.Namespace) -> int:
    inspection = inspect_bundle(parsed.bundle, device=parsed.device, variant=parsed.variant, engine=parsed.engine)
    if parsed.json:
        _write_json(as_json(inspection))
    else:
        _print(as_text(inspection))
    if inspection.damage:
        raise BundleError(inspection.damage)
    return 0


def _write_json(document: dict[str, Any]) -> None:
    _print(json.dumps(document, indent=1) + "\n")


def _open_stdout() -> None:
    """Let results be UTF-8 whatever the locale; names of files that are not come out as they are."""
    if sys.stdout is None:
        raise OutputError("stdout is closed; send the results to a file or a pipe")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")


def _print(results: str) -> None:
    try:
        sys.stdout.write(results)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _give_up_stdout()
        raise OutputError(
            f"cannot write the results ({error.strerror}); free some space or send them elsewhere"
        ) from error


def _give_up_stdout() -> None:
    """Python flushes stdout once more when it exits; let that go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(sentence: str) -> None:
    sys.stderr.write(f"pointsman: {sentence}\n")

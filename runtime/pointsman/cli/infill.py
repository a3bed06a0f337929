"""`pointsman infill`: texts from the command line, or the lines of a file."""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

from pointsman.bundle import read_manifest
from pointsman.cli.arguments import Parser, add_bundle, add_max_memory, in_flags, positive
from pointsman.cli.batch.command import infill_lines
from pointsman.cli.batch.options import add_lines
from pointsman.cli.batch.reading import stdin
from pointsman.cli.loading import loaded
from pointsman.cli.numbered import counted_from_one
from pointsman.cli.output import report, write, write_json
from pointsman.decoding import DecodingOptions
from pointsman.errors import OptionsError, PointsmanError
from pointsman.infill import DecodingFields, Fill, Infiller, Span
from pointsman.infill.requests import TEXTS_AT_ONCE
from pointsman.model import decoding_defaults
from pointsman.wording import counted

_ARGUMENTS_AT_ONCE: Final = 8
_EARLY_STOPPING: Final = {"true": True, "false": False, "never": "never"}


def add_infill(parser: Parser) -> None:
    """Its arguments."""
    parser.description = "Fill the blanks of texts. Write <extra_id_0>, <extra_id_1>, ... where something is missing."
    add_bundle(parser)
    parser.add_argument("texts", metavar="TEXT", nargs="*", help="a text with blanks, or - for each line of stdin")
    parser.add_argument(
        "--threads", metavar="N", type=positive, help="CPU threads (default: one for each core that it may use)"
    )
    add_max_memory(parser)
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=positive,
        help=f"texts decoded together (default: {_ARGUMENTS_AT_ONCE}, and of a file {TEXTS_AT_ONCE})",
    )
    add_lines(parser.add_argument_group("lines of a file"))
    add_decoding(parser.add_argument_group("decoding"))
    parser.rest = "texts"
    parser.examples = (
        "pointsman infill examples/demo_int8 'The <extra_id_0> walks in <extra_id_1> park.' --num-beams 4",
        "pointsman infill examples/demo_int8 --input texts.txt --jsonl --output fills.jsonl --resume",
    )
    parser.set_defaults(run=_infill)


def add_decoding(group: argparse._ArgumentGroup) -> None:
    """An option for every field of `DecodingOptions`; those left out of the command line stay out of the result."""
    group.description = "What the checkpoint itself says (pointsman inspect shows it) goes before these defaults."
    for name, kind, meaning in (
        ("max_new_tokens", int, "most tokens to generate for a text (default: 8 a blank and 2, at least 32)"),
        ("min_new_tokens", int, "fewest tokens to generate for a text (default: 0)"),
        ("num_beams", int, "beams to search with; 1 is greedy (default: 1)"),
        ("num_return_sequences", int, "fills to return for each text (default: 1)"),
        ("length_penalty", float, "of beam search: above 0 favours longer output, below 0 shorter (default: 1.0)"),
        ("temperature", float, "of sampling: below 1 likely tokens are drawn more often, above 1 less (default: 1.0)"),
        ("top_k", int, "sample from this many of the likeliest tokens; 0 from all (default: 50)"),
        ("top_p", float, "sample from the likeliest tokens that reach this probability (default: 1.0)"),
        ("seed", int, "of sampling: the same seed gives the same samples (default: a new one each time)"),
        ("repetition_penalty", float, "above 1 makes repeated tokens less likely (default: 1.0)"),
        ("no_repeat_ngram_size", int, "no sequence of this many tokens occurs twice; 0 allows it (default: 0)"),
    ):
        metavar = "N" if kind is int else "X"
        group.add_argument(_flag(name), type=kind, metavar=metavar, default=argparse.SUPPRESS, help=meaning)
    group.add_argument(
        "--early-stopping",
        choices=_EARLY_STOPPING,
        default=argparse.SUPPRESS,
        help="when beam search stops: true as soon as all beams have ended, false when none could score better at its "
        "present length, never when none could at any length (default: false)",
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


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def _infill(parsed: argparse.Namespace) -> int:
    decoding = decoding_of(parsed)
    if parsed.input is not None or parsed.jsonl:
        return infill_lines(parsed, decoding)
    if parsed.output or parsed.resume or parsed.lines or parsed.on_error != "fail":
        raise OptionsError(
            "--output, --resume, --plain, --objects and --on-error are for the lines of a file; add --input FILE "
            "--jsonl"
        )
    if not parsed.texts:
        raise OptionsError("there is no text; give one, or a file of them with --input; see pointsman infill --help")
    texts = list(_texts(parsed.texts))
    infiller = loaded(parsed)
    began = time.perf_counter()
    places = [place for place, text in enumerate(texts) if text]
    with counted_from_one(places, given=len(texts)):
        results = _filled(infiller, texts, parsed, decoding)
    choice = infiller.model.choice
    if parsed.json:
        write_json({"variant": choice.variant, "device": choice.device, "results": results})
    seconds = time.perf_counter() - began
    report(f"{counted(len(texts), 'text')} filled in {seconds:.2f} s with {choice.variant} on {choice.device}")
    return 0


def _filled(
    infiller: Infiller, texts: Sequence[str], parsed: argparse.Namespace, decoding: DecodingFields
) -> list[dict[str, Any]]:
    """Fill all but the empty ones, and print each as it is done, or give them back where JSON is wanted."""
    filled = infiller.infill_in_batches(
        [text for text in texts if text], parsed.batch_size or _ARGUMENTS_AT_ONCE, **decoding
    )
    results: list[dict[str, Any]] = []
    for text in texts:
        fills = next(filled) if text else []
        if parsed.json:
            results.append({"text": text, "fills": [asdict(fill) for fill in fills]})
        else:
            write("".join(map(_shown, fills)) or "\n")
    return results


def decoding_names() -> set[str]:
    """Options of decoding, as Python has them."""
    return {field.name for field in fields(DecodingOptions)}


def decoding_of(parsed: argparse.Namespace) -> DecodingFields:
    """The decoding options of the command line; bad ones are refused here, before anything is loaded."""
    names = decoding_names()
    given: Any = {name: value for name, value in vars(parsed).items() if name in names}
    if "early_stopping" in given:
        given["early_stopping"] = _EARLY_STOPPING[given["early_stopping"]]
    decoding: DecodingFields = given
    # The default of `max_new_tokens` depends on the texts.
    try:
        DecodingOptions.over(_defaults(parsed.bundle), decoding, room=sys.maxsize)
    except OptionsError as error:
        raise OptionsError(in_flags(str(error), names)) from None
    return decoding


def _defaults(bundle: str) -> DecodingFields:
    """What the bundle says of decoding; nothing if it cannot be read, which loading it reports."""
    try:
        return decoding_defaults(read_manifest(Path(bundle)))
    except PointsmanError:
        return {}


def _texts(arguments: Sequence[str]) -> Iterator[str]:
    """The texts to fill; `-` stands for the lines of stdin."""
    for argument in arguments:
        if argument != "-":
            yield argument
            continue
        for line in stdin():
            # Bytes that are not UTF-8 become lone surrogates, which the tokenizer refuses with a sentence.
            yield line.decode("utf-8", errors="surrogateescape").removesuffix("\n").removesuffix("\r")


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

"""`pointsman score`: how likely given spans are."""

import argparse

from pointsman.cli.arguments import Parser, add_bundle, add_max_memory, positive
from pointsman.cli.loading import loaded
from pointsman.cli.numbered import counted_from_one
from pointsman.cli.output import write, write_json


def add_score(parser: Parser) -> None:
    """Its arguments."""
    parser.description = (
        "Say how likely given spans are in the blanks of a text: natural log-likelihoods, the highest is the likeliest."
    )
    add_bundle(parser)
    parser.add_argument("text", metavar="TEXT", help="a text with blanks")
    parser.add_argument(
        "--spans",
        metavar="SPAN",
        nargs="+",
        action="append",
        required=True,
        help="one span for each blank, in the order of the text; give it once for each candidate",
    )
    parser.add_argument(
        "--threads", metavar="N", type=positive, help="CPU threads (default: one for each core that it may use)"
    )
    add_max_memory(parser)
    parser.examples = ("pointsman score examples/demo_int8 'The <extra_id_0> walks.' --spans man --spans dog",)
    parser.set_defaults(run=_score)


def _score(parsed: argparse.Namespace) -> int:
    infiller = loaded(parsed)
    with counted_from_one([0], given=1, candidates=len(parsed.spans)):
        scores = infiller.score(parsed.text, parsed.spans)
    if parsed.json:
        candidates = [{"spans": spans, "score": score} for spans, score in zip(parsed.spans, scores, strict=True)]
        write_json({"text": parsed.text, "candidates": candidates})
    else:
        for spans, score in zip(parsed.spans, scores, strict=True):
            write(f"{score:10.3f}  {' | '.join(spans)}\n")
    return 0

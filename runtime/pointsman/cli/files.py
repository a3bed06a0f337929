"""`pointsman fill-files`: files with a column of texts, filled by actors of Ray."""

import argparse

from pointsman.cli.arguments import Parser, add_max_memory, positive
from pointsman.cli.infill import add_decoding, decoding_of
from pointsman.cli.output import report, write
from pointsman.errors import DependencyError
from pointsman.wording import install


def add_files(parser: Parser) -> None:
    """Its arguments."""
    parser.description = (
        "Fill a column of texts of Parquet files or JSON lines, with actors of Ray that keep their model. Each output "
        "file is a shard; those that are there stay, so that a run that was stopped goes on."
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="folder written by pointsman-export, or a URL of one")
    parser.add_argument("files", metavar="FILE", nargs="+", help="Parquet, or .jsonl with an object a line")
    parser.add_argument("-o", "--output", metavar="FOLDER", required=True, help="where the shards go")
    parser.add_argument("--column", default="text", help="where the texts are (default: text)")
    parser.add_argument("--filled", default="filled", help="the column for the best fill (default: filled)")
    parser.add_argument(
        "--variant",
        default="auto",
        help="a name that inspect shows, or auto: the fastest without quantization (default: auto)",
    )
    parser.add_argument("--threads", metavar="N", type=positive, help="CPU threads of an actor (default: the engine's)")
    add_max_memory(parser)
    parser.add_argument("--actors", metavar="N", type=positive, default=1, help="models at work (default: 1)")
    parser.add_argument("--batch-size", metavar="N", type=positive, default=32, help="texts at a time (default: 32)")
    parser.add_argument("--rows", metavar="N", type=positive, default=10_000, help="rows of a shard (default: 10000)")
    parser.add_argument("--address", help="of a Ray cluster (default: one of this machine)")
    add_decoding(parser.add_argument_group("decoding"))
    parser.examples = ("pointsman fill-files build/demo texts.parquet -o filled --column text --actors 4",)
    parser.set_defaults(run=_fill)


def _fill(parsed: argparse.Namespace) -> int:
    try:
        from pointsman.ray.resumable import connect
        from pointsman.ray.shards import Filling, fill_files
    except ModuleNotFoundError as error:
        raise DependencyError(f"{error.name} is not installed; {install('ray')}") from error
    filling = Filling(
        bundle=parsed.bundle,
        column=parsed.column,
        filled=parsed.filled,
        variant=parsed.variant,
        threads=parsed.threads,
        max_memory=parsed.max_memory,
        batch_size=parsed.batch_size,
        rows=parsed.rows,
        fields=decoding_of(parsed),
    )
    connect(parsed.address)
    count = 0
    for shard in fill_files(parsed.files, parsed.output, filling, actors=parsed.actors):
        write(f"{shard.target}\n")
        count += 1
    report(f"{count} shards written; those that were there stayed")
    return 0

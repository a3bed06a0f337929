"""`pointsman fill-files`: files with a column of texts, filled by actors of Ray."""

import argparse
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pointsman.cli.arguments import Parser, add_max_memory, positive, quoted_in_flags
from pointsman.cli.batch.stopping import Stopping
from pointsman.cli.infill import add_decoding, decoding_names, decoding_of
from pointsman.cli.output import Interrupted, report, write
from pointsman.errors import DependencyError, OutputError
from pointsman.wording import counted, install

if TYPE_CHECKING:
    from pointsman.ray.shards import Filling


def add_files(parser: Parser) -> None:
    """Its arguments."""
    parser.description = (
        "Fill a column of texts of Parquet files or JSON lines, with actors of Ray (the extra ray) that keep their "
        "model. Each output file is a shard, with the columns of its rows, the best fill alone, its score, and why "
        "there is none; those that are there stay, so that a run that was stopped goes on."
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="folder written by pointsman-export, or a URL of one")
    parser.add_argument("files", metavar="FILE", nargs="+", help="Parquet, or .jsonl with an object a line")
    parser.add_argument("-o", "--output", metavar="FOLDER", required=True, help="where the shards go")
    parser.add_argument("--column", default="text", help="where the texts are (default: text)")
    parser.add_argument("--filled", default="filled", help="the column for the best fill (default: filled)")
    parser.add_argument(
        "--variant",
        default="auto",
        help="a name that inspect shows, or auto: the fastest without quantization, if there is one (default: auto)",
    )
    parser.add_argument(
        "--threads",
        metavar="N",
        type=positive,
        help="CPU threads of an actor (default: one for each core that it may use)",
    )
    add_max_memory(parser)
    parser.add_argument("--actors", metavar="N", type=positive, default=1, help="models at work (default: 1)")
    parser.add_argument("--batch-size", metavar="N", type=positive, default=32, help="texts at a time (default: 32)")
    parser.add_argument("--rows", metavar="N", type=positive, default=10_000, help="rows of a shard (default: 10000)")
    parser.add_argument(
        "--on-error",
        choices=("fail", "skip"),
        default="fail",
        help="what a row that cannot be filled does: end the run, or get no fill, and the reason in a column of its "
        "own (default: fail)",
    )
    parser.add_argument(
        "--on-change",
        choices=("fail", "redo"),
        default="fail",
        help="what rows that have changed since their shard was written do: end the run, or have it written again "
        "(default: fail)",
    )
    parser.add_argument("--address", help="of a Ray cluster (default: one of this machine)")
    add_decoding(parser.add_argument_group("decoding"))
    parser.lack("--num-return-sequences", "the best fill alone is written; leave it out")
    parser.examples = ("pointsman fill-files examples/demo_int8 texts.parquet -o filled --column text --actors 4",)
    parser.set_defaults(run=_fill)


def _fill(parsed: argparse.Namespace) -> int:
    try:
        from pointsman.ray.shards import Filling
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
        on_error=parsed.on_error,
        fields=decoding_of(parsed),
    )
    stopping = Stopping()
    with stopping.taken():
        return _shards_of(parsed, filling, stopping)


def _shards_of(parsed: argparse.Namespace, filling: "Filling", stopping: Stopping) -> int:
    from pointsman.ray.cluster import connect
    from pointsman.ray.files import plan_files

    try:
        work = plan_files(parsed.files, parsed.output, filling, on_change=parsed.on_change)
    except OutputError as error:
        # Options of decoding that are not given are none of the parsed command line.
        raise OutputError(quoted_in_flags(str(error), decoding_names())) from error
    rows = sum(shard.part.rows for shard in work.shards)
    kept = f"; {counted(work.kept, 'shard')} had been there" if work.kept else ""
    progress = _Progress(len(work.shards), rows)
    try:
        if work.shards:
            report(f"{counted(len(work.shards), 'shard')} to write, {counted(rows, 'row')}{kept}")
            connect(parsed.address)
        progress.began = time.perf_counter()
        for shard in work.done(actors=parsed.actors):
            with stopping.held():
                write(f"{shard.target}\n")
                progress.count(shard.part.rows, shard.bad)
    except KeyboardInterrupt:
        written = counted(progress.shards, "shard")
        raise Interrupted(f"interrupted after {written}; the same command goes on", number=stopping.number) from None
    bad, in_all = work.bad + progress.bad, " in all" if work.kept else ""
    without = f"; {counted(bad, 'row')} without a fill{in_all} ({parsed.filled}_error says why)" if bad else ""
    report(f"{counted(progress.shards, 'shard')} written{kept}{without}")
    return 0


@dataclass(slots=True)
class _Progress:
    """How far a run is.

    Attributes:
        all_shards: To be written.
        all_rows: Of these.
        shards: Written.
        rows: Of these.
        bad: Rows of these without a fill.
        began: When.
    """

    all_shards: int
    all_rows: int
    shards: int = 0
    rows: int = 0
    bad: int = 0
    began: float = 0.0

    def count(self, rows: int, bad: int) -> None:
        """Count a shard, and say how far the run is unless it is the last."""
        self.shards, self.rows, self.bad = self.shards + 1, self.rows + rows, self.bad + bad
        if self.shards < self.all_shards:
            speed = self.rows / max(time.perf_counter() - self.began, 1e-9)
            report(
                f"{self.shards:,} of {counted(self.all_shards, 'shard')}, {speed:,.1f} rows a second, "
                f"{(self.all_rows - self.rows) / speed:,.0f} s left"
            )

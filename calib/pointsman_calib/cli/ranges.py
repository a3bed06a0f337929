"""`pointsman-calib ranges`: observe a bundle's activations on a corpus, for `quantize --ranges`."""

import argparse
from pathlib import Path

from pointsman_calib.cli import corpus_arguments, outputs
from pointsman_calib.corpus.text import Corpus
from pointsman_calib.ranges import DEFAULT_PERCENTILE, check_percentile
from pointsman_calib.ranges.corpus_pass import partial_file, write_ranges
from pointsman_calib.ranges.table import RangeTable

DESCRIPTION = "Observe how large a bundle's inner values become on text, for `pointsman-calib quantize --ranges`."
EXAMPLES = ("pointsman-calib ranges build/demo -o observed.json --corpus allenai/c4",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder written by pointsman-export")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the table of ranges, JSON")
    corpus_arguments.add(parser, required=True, use="what to observe; interrupted, the same command goes on")
    corpus_arguments.add_device(parser)
    parser.add_argument(
        "--percentile",
        type=float,
        default=DEFAULT_PERCENTILE,
        help=f"percent of magnitudes that the percentile method keeps (default: {DEFAULT_PERCENTILE})",
    )


def run(parsed: argparse.Namespace) -> int:
    """Observe, and print what was seen."""
    check_percentile(parsed.percentile)
    outputs.check_file(parsed.output, "--output")
    corpus = corpus_arguments.read(parsed)
    table = _observed(parsed, corpus)
    given = [tokens for layer in table.coverage.values() for tokens in layer]
    least = f", {min(given)} tokens or more for each of {len(given)} experts" if given else ""
    print(f"{parsed.output}: {len(table.tensors)} ranges on {table.provenance.sequences} documents{least}")
    print(f"corpus: {corpus_arguments.used(parsed, corpus)}")
    return 0


def _observed(parsed: argparse.Namespace, corpus: Corpus) -> RangeTable:
    """The table, written.

    Raises:
        KeyboardInterrupt: interrupted; says what was kept.
    """
    try:
        return write_ranges(parsed.bundle, corpus, parsed.output, percentile=parsed.percentile, device=parsed.device)
    except KeyboardInterrupt:
        partial = partial_file(parsed.output)
        if not partial.exists():
            raise
        raise KeyboardInterrupt(f"progress is kept in {partial}, and the same command goes on from there") from None

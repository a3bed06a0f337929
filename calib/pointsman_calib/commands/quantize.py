"""`pointsman-calib quantize`: add a quantized variant to a bundle."""

import argparse
from pathlib import Path

from pointsman_calib.commands import corpus_arguments
from pointsman_calib.observers import METHODS
from pointsman_calib.qdq import DEFAULT, Clipping
from pointsman_calib.quantize import SCHEMES, quantize_bundle
from pointsman_calib.range_table import read_range_table

HELP = "add a quantized variant to a bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder written by pointsman-export")
    parser.add_argument("--scheme", choices=SCHEMES, required=True, help="what weights (and activations) become")
    corpus_arguments.add(parser, required=False, use="int8, int4: round for it by GPTQ; int8-qdq: observe ranges on it")
    parser.add_argument("--force", action="store_true", help="replace the variant if it is there")
    ranges = parser.add_argument_group("ranges of activations, for int8-qdq")
    ranges.add_argument("--ranges", type=Path, metavar="FILE", help="a table by `pointsman-calib ranges`, for --corpus")
    ranges.add_argument("--range-method", choices=METHODS, help=f"where to clip (default: {DEFAULT.method})")
    ranges.add_argument(
        "--min-expert-tokens",
        type=int,
        metavar="N",
        help=f"experts that were given fewer take their layer's range (default: {DEFAULT.fewest_tokens})",
    )
    ranges.add_argument(
        "--max-thin-experts",
        type=float,
        metavar="SHARE",
        help=f"refuse a corpus that gives fewer to more of the experts (default: {DEFAULT.most_thin:g})",
    )


def run(parsed: argparse.Namespace) -> int:
    """Quantize; print the new variant's name and size, and how many experts had too few tokens."""
    table = None if parsed.ranges is None else read_range_table(parsed.ranges)
    corpus = corpus_arguments.read(parsed) if parsed.corpus else None
    variant = quantize_bundle(
        parsed.bundle, parsed.scheme, corpus=corpus, table=table, clipping=_clipping(parsed), force=parsed.force
    )
    size = sum(file.bytes for file in variant.files)
    print(f"{variant.form}-{variant.precision}: {size / 1e6:,.1f} MB")
    activations = variant.quantization.activations if variant.quantization else None
    if activations is not None:
        thin = sum(map(len, activations.thin_experts.values()))
        given = sum(map(len, activations.coverage.values()))
        fewest = activations.fewest_tokens
        print(f"experts with fewer than {fewest} tokens, and so their layer's range: {thin} of {given}")
    return 0


def _clipping(parsed: argparse.Namespace) -> Clipping | None:
    """What was asked for; None where nothing was."""
    options = {
        "method": parsed.range_method,
        "fewest_tokens": parsed.min_expert_tokens,
        "most_thin": parsed.max_thin_experts,
    }
    given = {name: value for name, value in options.items() if value is not None}
    return Clipping(**given) if given else None

"""`pointsman-calib quantize`: add a quantized variant to a bundle."""

import argparse

from pointsman_calib.corpus import Corpus
from pointsman_calib.quantize import RECIPES, quantize_bundle

HELP = "add a quantized variant to a bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder written by pointsman-export")
    parser.add_argument("--scheme", choices=RECIPES, required=True, help="what weights become")
    parser.add_argument(
        "--corpus",
        nargs="+",
        metavar="C4",
        help="C4 files, globs or a hub id: round for this text by GPTQ instead of to nearest",
    )
    parser.add_argument("--documents", type=int, default=128, help="how many to use (default: 128)")
    parser.add_argument("--seed", type=int, default=0, help="of the span corruption (default: 0)")
    parser.add_argument("--window", type=int, default=512, help="the most encoder inputs (default: 512)")
    parser.add_argument(
        "--too-long", choices=("skip", "cut"), default="skip", help="what becomes of longer documents (default: skip)"
    )
    parser.add_argument("--force", action="store_true", help="replace the variant if it is there")


def run(parsed: argparse.Namespace) -> int:
    """Quantize, and print the new variant's name and size."""
    corpus = _corpus(parsed) if parsed.corpus else None
    variant = quantize_bundle(parsed.bundle, parsed.scheme, corpus=corpus, force=parsed.force)
    size = sum(file.bytes for file in variant.files)
    print(f"{RECIPES[parsed.scheme].name}: {size / 1e6:,.1f} MB")
    return 0


def _corpus(parsed: argparse.Namespace) -> Corpus:
    return Corpus.read(
        parsed.bundle,
        parsed.corpus,
        documents=parsed.documents,
        seed=parsed.seed,
        window=parsed.window,
        too_long=parsed.too_long,
    )

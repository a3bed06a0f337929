"""`pointsman-calib`: quantize bundles."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pointsman.errors import PointsmanError
from pointsman.manifest import TOKENIZER, read_manifest
from pointsman.tokenizer import Tokenizer
from pointsman_calib.batches import examples
from pointsman_calib.c4 import read_documents
from pointsman_calib.quantize import Corpus, quantize_bundle


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 done, 1 a comparison failed, 2 the user's mistake."""
    parsed = _parser().parse_args(arguments)
    try:
        return _quantize(parsed)
    except PointsmanError as error:
        print(f"pointsman-calib: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("pointsman-calib: interrupted; the bundle is as it was", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pointsman-calib", description="Quantize exported bundles.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    quantize = commands.add_parser("quantize", help="add a quantized variant to a bundle")
    quantize.add_argument("bundle", metavar="BUNDLE")
    quantize.add_argument("--scheme", choices=("int8", "int4"), required=True)
    quantize.add_argument(
        "--corpus",
        nargs="+",
        metavar="C4",
        help="C4 files, globs or a hub id: round for this text by GPTQ instead of to nearest",
    )
    quantize.add_argument("--documents", type=int, default=128, help="how many to use (default: 128)")
    quantize.add_argument("--seed", type=int, default=0, help="of the span corruption")
    quantize.add_argument("--window", type=int, default=512, help="the most encoder inputs (default: 512)")
    quantize.add_argument(
        "--too-long", choices=("skip", "cut"), default="skip", help="what becomes of longer documents"
    )
    quantize.add_argument("--force", action="store_true", help="replace the variant if it is there")
    return parser


def _quantize(parsed: argparse.Namespace) -> int:
    corpus = None if parsed.corpus is None else _corpus(parsed)
    variant = quantize_bundle(parsed.bundle, parsed.scheme, corpus=corpus, force=parsed.force)
    size = sum(file.bytes for file in variant.files)
    print(f"fused-{parsed.scheme}: {size / 1e6:,.1f} MB")
    return 0


def _corpus(parsed: argparse.Namespace) -> Corpus:
    bundle = Path(parsed.bundle)
    tokenizer = Tokenizer.load(bundle / TOKENIZER, extra_ids=read_manifest(bundle).extra_ids)
    documents = read_documents(parsed.corpus)
    chosen = examples(
        documents,
        tokenizer,
        seed=parsed.seed,
        window=parsed.window,
        too_long=parsed.too_long,
        limit=parsed.documents,
    )
    return Corpus(list(chosen), parsed.seed, parsed.window)

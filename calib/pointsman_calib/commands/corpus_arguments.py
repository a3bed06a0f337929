"""Options that name a corpus, the same in every subcommand that reads one."""

import argparse

from pointsman_calib import hub
from pointsman_calib.corpus import Corpus


def add(parser: argparse._ActionsContainer, *, required: bool, use: str) -> None:
    """Declare them.

    Args:
        parser: of the subcommand, or a group of it.
        required: whether it needs a corpus.
        use: what it does with it.
    """
    parser.add_argument(
        "--corpus", nargs="+", metavar="C4", required=required, help=f"C4 files, globs or a hub id: {use}"
    )
    parser.add_argument("--documents", type=int, default=128, help="how many to use (default: 128)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: 0)")
    parser.add_argument("--window", type=int, default=512, help="the most encoder inputs (default: 512)")
    parser.add_argument(
        "--too-long", choices=("skip", "cut"), default="skip", help="what becomes of longer documents (default: skip)"
    )


def read(parsed: argparse.Namespace, split: hub.Split = "train") -> Corpus:
    """Read the corpus that they name, with the vocabulary of `parsed.bundle`.

    Args:
        parsed: the options.
        split: which files of a dataset on the hub.

    Raises:
        BundleNotFoundError: there is no bundle.
        CorpusError: the corpus cannot be read, or none of it can be used.
        OptionsError: an option is out of range.
    """
    return Corpus.read(
        parsed.bundle,
        parsed.corpus,
        documents=parsed.documents,
        seed=parsed.seed,
        window=parsed.window,
        too_long=parsed.too_long,
        split=split,
    )

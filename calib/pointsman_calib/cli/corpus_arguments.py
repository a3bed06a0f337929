"""Options that name a corpus, the same in every subcommand that reads one."""

import argparse
from typing import Final

from pointsman.wording import counted
from pointsman_calib.corpus import hub
from pointsman_calib.corpus.c4 import count_documents
from pointsman_calib.corpus.text import DOCUMENTS, Corpus
from pointsman_calib.graphs.pieces import open_device

_MORE: Final = "; --documents takes more"
_MOST_COUNTED: Final = 10_000  # beyond, reading the rest of the files would take longer than a number is worth
OPTIONS: Final = ("documents", "seed", "window", "too_long", "split")


def add(parser: argparse._ActionsContainer, *, required: bool, use: str, split: hub.Split = "train") -> None:
    """Declare them. None has a default here, so that one that was given without a corpus is noticed.

    Args:
        parser: of the subcommand, or a group of it.
        required: whether it needs a corpus.
        use: what it does with it.
        split: which files of a dataset on the hub it reads where nothing is said.
    """
    parser.add_argument(
        "--corpus",
        nargs="+",
        metavar="FILE",
        required=required,
        help=f'files of JSON lines, each {{"text": ...}}; patterns, or a hub id: {use}',
    )
    parser.add_argument("--split", choices=hub.SPLITS, help=f"which files of a hub id (default: {split})")
    parser.add_argument("--documents", metavar="N", type=int, help=f"how many to use (default: {DOCUMENTS})")
    parser.add_argument(
        "--seed", metavar="N", type=int, help="of all that is drawn: the same seed gives the same spans (default: 0)"
    )
    parser.add_argument("--window", type=int, metavar="TOKENS", help="the longest input (default: 512)")
    parser.add_argument("--too-long", choices=("skip", "cut"), help="what becomes of longer documents (default: skip)")


def add_device(parser: argparse._ActionsContainer) -> None:
    """Declare where the corpus is run."""
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where the corpus is run (default: cpu)"
    )


def read(parsed: argparse.Namespace, split: hub.Split = "train") -> Corpus:
    """Read the corpus that they name, with the vocabulary of `parsed.bundle`.

    Args:
        parsed: the options.
        split: which files of a dataset on the hub, where nothing is said.

    Raises:
        BundleNotFoundError: there is no bundle.
        CorpusError: the corpus cannot be read, or none of it can be used.
        OptionsError: an option is out of range.
        DeviceError: the device cannot be used.
    """
    open_device(parsed.device)
    given = {name: value for name in OPTIONS if (value := getattr(parsed, name)) is not None}
    return Corpus.read(parsed.bundle, parsed.corpus, **({"split": split} | given))


def used(parsed: argparse.Namespace, corpus: Corpus) -> str:
    """How much of the corpus that they name was used, such as ``128 of 242 documents; --documents takes more``."""
    count = len(corpus.examples)
    limit = DOCUMENTS if parsed.documents is None else parsed.documents
    there = count_documents(parsed.corpus, _MOST_COUNTED)
    if count == there:
        return f"all {counted(count, 'document')}" if count > 1 else "its only document"
    if there is None:
        of = "the first " if count == limit else ""
        return f"{of}{counted(count, 'document')}{_MORE if count == limit else ''}"
    of = f"more than {_MOST_COUNTED:,}" if there > _MOST_COUNTED else f"{there:,}"
    why = _MORE if count == limit else "; the others are too long (--too-long cut), too short or spell special tokens"
    return f"{count:,} of {of} documents{why}"

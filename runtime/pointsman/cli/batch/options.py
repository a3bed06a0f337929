"""What the command line says of the lines of a file."""

import argparse


def add_lines(group: argparse._ArgumentGroup) -> None:
    """Which lines are filled, and where their records go."""
    group.description = (
        "Every line is a text with blanks. If the first line that is not empty begins with {, or with --objects, all "
        "are JSON objects with a text and, if they have one, an id. Each line gives one JSON object, in order: its "
        "line from 1, its id, its fills. Lines are read ahead, 16 times as many as are decoded together, to find texts "
        "of one length; with --batch-size 1 none are."
    )
    group.add_argument(
        "--input",
        metavar="FILE",
        help="where the texts are, one a line, gzipped or not; - is stdin (default: the texts of the command line)",
    )
    group.add_argument("--jsonl", action="store_true", help="print one JSON object for each line")
    form = group.add_mutually_exclusive_group()
    for name, meaning in (
        ("plain", "take lines as plain texts, even if the first begins with {"),
        ("objects", "take lines as JSON objects, even if the first is none"),
    ):
        form.add_argument(f"--{name}", action="store_const", const=name, dest="lines", help=meaning)
    group.add_argument(
        "--output",
        metavar="FILE",
        help="where the objects go; FILE.job beside it says how they were made; - is stdout (default: -)",
    )
    group.add_argument("--resume", action="store_true", help="go on where an interrupted run has left --output")
    group.add_argument(
        "--on-error",
        choices=("fail", "skip"),
        default="fail",
        help="what a line that cannot be filled does: end the run, or give an object that says why (default: fail)",
    )

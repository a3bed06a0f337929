"""What the command line says of the lines of a file."""

import argparse
from typing import Final

LINES_AT_ONCE: Final = 32
"""Texts of a file that are decoded together, where nothing else is said."""


def add_lines(group: argparse._ArgumentGroup) -> None:
    """Which lines are filled, and where their records go."""
    group.description = (
        "Every line is a text with blanks. If the first line that is not empty begins with {, all are JSON objects "
        "with a text and, if they have one, an id. Each line gives one JSON object, in order: its line from 1, its id, "
        "its fills. Lines are read ahead, 16 times as many as are decoded together, to find texts of one length; with "
        "--batch-size 1 none are."
    )
    group.add_argument(
        "--input",
        metavar="FILE",
        help="where the texts are, one a line, gzipped or not; - is stdin (default: the texts of the command line)",
    )
    group.add_argument("--jsonl", action="store_true", help="print one JSON object for each line")
    group.add_argument(
        "--plain", action="store_true", help="take lines as plain texts, even if the first begins with {"
    )
    group.add_argument(
        "--output",
        metavar="FILE",
        help="where the objects go; FILE.job beside it says how they were made (default: stdout)",
    )
    group.add_argument("--resume", action="store_true", help="go on where an interrupted run has left --output")
    group.add_argument(
        "--on-error",
        choices=("fail", "skip"),
        default="fail",
        help="what a line that cannot be filled does: end the run, or give an object that says why (default: fail)",
    )

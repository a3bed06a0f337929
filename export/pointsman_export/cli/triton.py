"""`pointsman-export triton`."""

import argparse
from typing import Any

import pointsman_export
from pointsman.cli.arguments import Parser


def add_triton(commands: Any) -> None:  # noqa: ANN401 - argparse's type for this is private
    """Add it to the command line's `commands`."""
    parser: Parser = commands.add_parser(
        "triton",
        help="bundle to a model of Triton Inference Server",
        description="Write a bundle into a model repository of Triton, for its Python backend.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="what to serve")
    parser.add_argument("-o", "--output", required=True, metavar="REPOSITORY", help="where models lie")
    parser.add_argument("--name", help="the model's (default: the bundle's)")
    parser.add_argument(
        "--variant",
        default="auto",
        help="a name that pointsman inspect shows, or auto: the fastest without quantization (default: auto)",
    )
    parser.add_argument("--gpu", action="store_true", help="run on a GPU, and not on the CPU")
    parser.add_argument("--force", action="store_true", help="replace a model of this name")
    parser.examples = ("pointsman-export triton build/demo -o models --name demo",)
    parser.set_defaults(run=_triton, interrupted="interrupted; nothing was written")


def _triton(parsed: argparse.Namespace) -> int:
    folder = pointsman_export.export_triton(
        parsed.bundle,
        parsed.output,
        name=parsed.name,
        variant=parsed.variant,
        gpu=parsed.gpu,
        force=parsed.force,
    )
    print(f"wrote {folder}")
    return 0

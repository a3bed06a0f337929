"""`pointsman-export engines` and `pointsman-export refit`."""

import argparse
from typing import Any

import pointsman_export
from pointsman.bundle import PlanOptions, PlanRecord
from pointsman.cli.arguments import Parser

FLAVOURS = ("tensorrt", "tensorrt-rtx")
INTERRUPTED = "interrupted; plans that were complete stay, and the rest of the bundle is as it was"


def add_commands(commands: Any) -> None:  # noqa: ANN401 - argparse's type for this is private
    """Add both to the command line's `commands`."""
    _add_engines(commands)
    _add_refit(commands)


def _add_engines(commands: Any) -> None:  # noqa: ANN401
    parser: Parser = commands.add_parser(
        "engines",
        help="portable graphs to TensorRT plans",
        description="Build TensorRT or TensorRT-RTX plans from a bundle's portable graphs.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="gets the plans")
    _add_common(parser)
    parser.add_argument(
        "--compute-capability",
        nargs="+",
        default=(),
        metavar="X.Y",
        help="of the GPUs to build for, as 8.9; only tensorrt-rtx builds for others than the GPU here (default: that)",
    )
    parser.add_argument("--variant", nargs="+", default=(), metavar="V", help="portable variants (default: all)")
    parser.add_argument(
        "--max-rows",
        type=int,
        default=8,
        metavar="N",
        help="most inputs, and most inputs x beams, of a request (default: 8)",
    )
    parser.add_argument("--weight-streaming", action="store_true", help="let weights stay in host memory")
    parser.add_argument("--refittable", action="store_true", help="let `refit` put other weights into the plans")
    parser.add_argument("--version-compatible", action="store_true", help="let later versions and tensorrt-lean run it")
    parser.examples = ("pointsman-export engines build/demo --flavour tensorrt-rtx --compute-capability 8.9 12.0",)
    parser.set_defaults(run=_engines, interrupted=INTERRUPTED)


def _add_refit(commands: Any) -> None:  # noqa: ANN401
    parser: Parser = commands.add_parser(
        "refit",
        help="plans of one checkpoint to another of the same shape",
        description="Give a bundle the refittable plans of another of the same shape, with its own weights in them.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="gets the plans; of the fine-tuned checkpoint")
    parser.add_argument("--from", required=True, dest="donor", metavar="BUNDLE", help="has refittable plans")
    _add_common(parser)
    parser.examples = ("pointsman-export refit build/tuned --from build/base",)
    parser.set_defaults(run=_refit, interrupted=INTERRUPTED)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--flavour", choices=FLAVOURS, help="which library (default: the one there is)")
    parser.add_argument("--force", action="store_true", help="replace plans that are there")


def _engines(parsed: argparse.Namespace) -> int:
    options = PlanOptions(
        weight_streaming=parsed.weight_streaming,
        refittable=parsed.refittable,
        version_compatible=parsed.version_compatible,
    )
    built = pointsman_export.build_plans(
        parsed.bundle,
        flavour=parsed.flavour,
        compute_capabilities=parsed.compute_capability,
        variants=parsed.variant,
        max_rows=parsed.max_rows,
        options=options,
        force=parsed.force,
    )
    return _report(built)


def _refit(parsed: argparse.Namespace) -> int:
    made = pointsman_export.refit_plans(parsed.bundle, parsed.donor, flavour=parsed.flavour, force=parsed.force)
    return _report(made)


def _report(plans: tuple[PlanRecord, ...]) -> int:
    for plan in plans:
        print(f"{plan.file.path}: {plan.file.bytes / 1e6:,.1f} MB in {plan.build_seconds:.1f} s")
    return 0

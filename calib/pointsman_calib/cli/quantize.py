"""`pointsman-calib quantize`: add a quantized variant to a bundle."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from pointsman.bundle import Fidelity, Quantization, Variant
from pointsman.errors import OptionsError
from pointsman_calib.cli import corpus_arguments
from pointsman_calib.corpus.coverage import CoverageRule
from pointsman_calib.quantize import SCHEMES, Recipe, open_bundle, quantize_bundle, recipe_of
from pointsman_calib.ranges import METHODS
from pointsman_calib.ranges.table import read_range_table
from pointsman_calib.schemes.qdq import DEFAULT, SCHEME, Clipping
from pointsman_calib.settle import DEFAULT_LIMITS, Limits

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
    _add_limits(parser.add_argument_group("what the variant is held to on the corpus"))
    experts = parser.add_argument_group("experts that few tokens reach")
    experts.add_argument(
        "--min-expert-tokens",
        type=int,
        metavar="N",
        help="experts given fewer are rounded to nearest, or take their layer's range "
        f"(default: {DEFAULT.fewest_tokens})",
    )
    experts.add_argument(
        "--max-thin-experts",
        type=float,
        metavar="SHARE",
        help="refuse a corpus that gives fewer to more of the experts "
        f"(default: {DEFAULT.most_thin:g} for int8-qdq, else 1)",
    )


def _add_limits(group: argparse._ArgumentGroup) -> None:
    def defaults(field: str) -> str:
        chosen = {scheme: getattr(limits, field) for scheme, limits in DEFAULT_LIMITS.items()}
        return ", ".join(f"{limit:g} for {scheme}" for scheme, limit in chosen.items() if limit is not None)

    group.add_argument(
        "--max-loss-increase",
        type=float,
        metavar="PERCENT",
        help=f"of the span loss (default: {defaults('max_loss_increase')})",
    )
    group.add_argument(
        "--min-agreement",
        type=float,
        metavar="PERCENT",
        help=f"of the float variant's tokens (default: {defaults('min_agreement')})",
    )
    group.add_argument(
        "--min-expert-agreement",
        type=float,
        metavar="PERCENT",
        help=f"of tokens at the float variant's expert (default: {defaults('min_expert_agreement')})",
    )


def run(parsed: argparse.Namespace) -> int:
    """Quantize; print the new variant's name and size, and how many experts had too few tokens."""
    table = None if parsed.ranges is None else read_range_table(parsed.ranges)
    limits, clipping, coverage = _limits(parsed), _clipping(parsed), _coverage(parsed)
    recipe = recipe_of(parsed.scheme, corpus=None, limits=limits, table=table, clipping=clipping)
    manifest = open_bundle(Path(parsed.bundle), recipe, force=parsed.force)  # before a corpus is fetched and read
    _refuse_unused(parsed)
    variant = quantize_bundle(
        parsed.bundle,
        parsed.scheme,
        corpus=corpus_arguments.read(parsed) if parsed.corpus else None,
        limits=limits,
        table=table,
        clipping=clipping,
        coverage=coverage,
        force=parsed.force,
    )
    print(f"{recipe.name}: {_size(variant) / 1e6:,.1f} MB")
    if variant.quantization is not None:
        _print_calibration(variant.quantization)
    _warn_of_size(recipe, variant, manifest.variants[recipe.source])
    return 0


def _refuse_unused(parsed: argparse.Namespace) -> None:
    """Refuse options of a corpus where there is none.

    Raises:
        OptionsError: one is given.
    """
    names = [*corpus_arguments.OPTIONS, "max_loss_increase", "min_agreement", "min_expert_agreement"]
    if parsed.ranges is None:
        names += ["min_expert_tokens", "max_thin_experts"]  # a table says what experts were given
    unused = [f"--{name.replace('_', '-')}" for name in names if getattr(parsed, name) is not None]
    if unused and not parsed.corpus:
        raise OptionsError(f"without a corpus, {unused[0]} has no effect; name one with --corpus, or leave it out")


def _warn_of_size(recipe: Recipe, variant: Variant, source: Variant) -> None:
    """Say where quantizing saved nothing."""
    if _size(variant) >= _size(source):
        print(
            f"pointsman-calib: {recipe.name} is not smaller than {recipe.source} ({_size(source) / 1e6:,.1f} MB); "
            "serve that one, or spare less with looser limits",
            file=sys.stderr,
        )


def _size(variant: Variant) -> int:
    return sum(file.bytes for file in variant.files)


def _print_calibration(quantization: Quantization) -> None:
    """Say how well experts were reached, what was measured and what was spared, as far as each is known."""
    activations, coverage, sensitivity = quantization.activations, quantization.coverage, quantization.sensitivity
    if activations is not None:
        thin = sum(map(len, activations.thin_experts.values()))
        given = sum(map(len, activations.coverage.values()))
        fewest = activations.fewest_tokens
        print(f"experts with fewer than {fewest} tokens, and so their layer's range: {thin} of {given}")
    if coverage is not None:
        thin, given = (sum(map(len, layers.values())) for layers in (coverage.thin, coverage.tokens))
        print(f"experts with fewer than {coverage.fewest_tokens} tokens, and so rounded to nearest: {thin} of {given}")
    if sensitivity is not None:
        print(
            f"on the corpus: {sensitivity.labels} labels, span loss {sensitivity.loss:.4f} "
            f"{_beside_float(sensitivity.reached)}"
        )
        print(f"rounded to nearest, it would be {_beside_float(sensitivity.nearest)}")
        print(
            f"spared: the inputs of {len(sensitivity.fine_inputs)} and the weights of "
            f"{len(sensitivity.float_weights)} of {len(quantization.formats) + len(quantization.kept)} weights"
        )


def _beside_float(fidelity: Fidelity) -> str:
    return (
        f"{fidelity.loss_increase:+.3%}, {fidelity.agreement:.2%} of tokens agree, "
        f"{fidelity.expert_agreement:.2%} go to the same expert"
    )


def _limits(parsed: argparse.Namespace) -> Limits | None:
    """What was asked for, with the scheme's own for the rest; None where nothing was."""
    names = ("max_loss_increase", "min_agreement", "min_expert_agreement")
    given = {name: value for name in names if (value := getattr(parsed, name)) is not None}
    return replace(DEFAULT_LIMITS[parsed.scheme], **given) if given else None


def _clipping(parsed: argparse.Namespace) -> Clipping | None:
    """What was asked for; None where nothing was."""
    options = {"method": parsed.range_method}
    if parsed.scheme == SCHEME:
        options |= {"fewest_tokens": parsed.min_expert_tokens, "most_thin": parsed.max_thin_experts}
    given = {name: value for name, value in options.items() if value is not None}
    return Clipping(**given) if given else None


def _coverage(parsed: argparse.Namespace) -> CoverageRule | None:
    """What was asked for of the schemes without ranges; None where nothing was."""
    options = {"fewest_tokens": parsed.min_expert_tokens, "most_thin": parsed.max_thin_experts}
    given = {name: value for name, value in options.items() if value is not None}
    return CoverageRule(**given) if given and parsed.scheme != SCHEME else None

"""`pointsman-calib quantize`: add a quantized variant to a bundle."""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from pointsman.bundle import Fidelity, Quantization, Scheme, Variant
from pointsman.errors import OptionsError
from pointsman.wording import counted
from pointsman_calib.cli import corpus_arguments, summary
from pointsman_calib.corpus.coverage import DEFAULT_COVERAGE, CoverageRule
from pointsman_calib.quantization import RECIPES, SCHEMES, prepare, quantize
from pointsman_calib.ranges import METHODS
from pointsman_calib.ranges.table import read_range_table
from pointsman_calib.schemes.qdq import DEFAULT_METHOD
from pointsman_calib.settle import DEFAULT_LIMITS, Limits

DESCRIPTION = "Add a quantized variant to a bundle: weights in small integers, rounded to nearest, or for text."
EXAMPLES = (
    "pointsman-calib quantize build/demo --scheme int8 --corpus allenai/c4",
    "pointsman-calib quantize build/demo --scheme int4 --corpus c4-train.*.json.gz --documents 256",
)
LIMITS: Final = ("max_loss_increase", "min_agreement", "min_expert_agreement")
COVERAGE: Final = {"min_expert_tokens": "fewest_tokens", "max_thin_experts": "most_thin"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder written by pointsman-export")
    parser.add_argument(
        "--scheme",
        choices=SCHEMES,
        required=True,
        help="int8 and int4: weights, for the CPU; int8-qdq: weights and activations, for TensorRT",
    )
    corpus_arguments.add(
        parser,
        required=False,
        use="weights are rounded for it, or ranges observed on it (default: none, weights are rounded to nearest)",
    )
    corpus_arguments.add_device(parser)
    parser.add_argument("--force", action="store_true", help="replace the variant if it is there")
    ranges = parser.add_argument_group("ranges of activations, for int8-qdq")
    ranges.add_argument(
        "--ranges",
        type=Path,
        metavar="FILE",
        help="a table by `pointsman-calib ranges`, in place of --corpus (default: none)",
    )
    ranges.add_argument("--range-method", choices=METHODS, help=f"where to clip (default: {DEFAULT_METHOD})")
    _add_limits(parser.add_argument_group("what the variant is held to on the corpus"))
    _add_coverage(parser.add_argument_group("experts that few tokens reach"))


def _add_limits(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max-loss-increase",
        type=float,
        metavar="PERCENT",
        help=f"of the span loss (default: {_defaults(DEFAULT_LIMITS, 'max_loss_increase')})",
    )
    group.add_argument(
        "--min-agreement",
        type=float,
        metavar="PERCENT",
        help=f"of span tokens that are the float variant's (default: {_defaults(DEFAULT_LIMITS, 'min_agreement')})",
    )
    group.add_argument(
        "--min-expert-agreement",
        type=float,
        metavar="PERCENT",
        help=f"of tokens at the float variant's expert (default: {_defaults(DEFAULT_LIMITS, 'min_expert_agreement')})",
    )


def _add_coverage(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--min-expert-tokens",
        type=int,
        metavar="N",
        help="experts given fewer are rounded to nearest, and take their layer's range "
        f"(default: {_defaults(DEFAULT_COVERAGE, 'fewest_tokens')})",
    )
    group.add_argument(
        "--max-thin-experts",
        type=float,
        metavar="SHARE",
        help="refuse a corpus that gives fewer to more of the experts "
        f"(default: {_defaults(DEFAULT_COVERAGE, 'most_thin')})",
    )


def _defaults(rules: Mapping[Scheme, Limits] | Mapping[Scheme, CoverageRule], field: str) -> str:
    """The default of each scheme that has one."""
    values = ((scheme, getattr(rule, field)) for scheme, rule in rules.items())
    return ", ".join(f"{value:g} for {scheme}" for scheme, value in values if value is not None)


def run(parsed: argparse.Namespace) -> int:
    """Quantize; print what the new variant is, what it loses, and what to do next."""
    scheme, recipe = parsed.scheme, RECIPES[parsed.scheme]
    table = None if parsed.ranges is None else read_range_table(parsed.ranges)
    limits, coverage = _limits(parsed), _coverage(parsed)
    bundle, method = Path(parsed.bundle), parsed.range_method
    manifest, source = prepare(
        bundle, scheme, ranges=table, method=method, force=parsed.force, has_corpus=bool(parsed.corpus)
    )
    _refuse_unused(parsed)
    corpus = corpus_arguments.read(parsed) if parsed.corpus else None
    variant = quantize(
        bundle,
        scheme,
        corpus=corpus,
        limits=limits,
        coverage=coverage,
        ranges=table,
        method=method,
        force=parsed.force,
        device=parsed.device,
    )
    print(f"{recipe.name}: {_size(variant) / 1e6:,.1f} MB")
    if corpus is not None:
        print(f"corpus: {corpus_arguments.used(parsed, corpus)}")
    if variant.quantization is not None:
        _print_calibration(variant.quantization)
        print(summary.weights(variant.quantization))
        _warn(summary.mostly_float(variant.quantization))
        _warn(summary.few_labels(variant.quantization))
        _warn(summary.guessing(variant.quantization, manifest.architecture.vocab_size))
    _warn_of_size(recipe.name, variant, source, manifest.variants[source])
    if variant.quantization is not None and (sentence := summary.nearest_loses_less(variant.quantization)) is not None:
        print(sentence)
    print(*summary.next_commands(bundle, recipe.name, manifest.variants), sep="\n")
    return 0


def _refuse_unused(parsed: argparse.Namespace) -> None:
    """Refuse options of a corpus where there is none.

    Raises:
        OptionsError: one is given.
    """
    names = [*corpus_arguments.OPTIONS, *LIMITS]
    if parsed.ranges is None:
        names += COVERAGE  # a table says what experts were given
    unused = [f"--{name.replace('_', '-')}" for name in names if getattr(parsed, name) is not None]
    if unused and not parsed.corpus:
        raise OptionsError(f"without a corpus, {unused[0]} has no effect; name one with --corpus, or leave it out")


def _warn(sentence: str | None) -> None:
    if sentence is not None:
        print(f"pointsman-calib: {sentence}", file=sys.stderr)


def _warn_of_size(name: str, variant: Variant, source_name: str, source: Variant) -> None:
    """Say where quantizing saved nothing."""
    if _size(variant) >= _size(source):
        print(
            f"pointsman-calib: {name} is not smaller than {source_name} ({_size(source) / 1e6:,.1f} MB); "
            "serve that one, or keep less in float with looser limits",
            file=sys.stderr,
        )


def _size(variant: Variant) -> int:
    return sum(file.bytes for file in variant.files)


def _print_calibration(quantization: Quantization) -> None:
    """Say how well experts were reached, and what was measured, as far as each is known."""
    coverage, sensitivity = quantization.coverage, quantization.sensitivity
    if coverage is not None:
        instead = "rounded to nearest" if quantization.activations is None else "in their layer's range"
        print(f"experts with fewer than {coverage.fewest_tokens} tokens, and so {instead}: {summary.thin(coverage)}")
    if sensitivity is not None:
        print(
            f"on the corpus: {counted(sensitivity.labels, 'span token')} (of the words that were hidden), "
            f"loss {sensitivity.loss:.4f} "
            f"{_beside_float(sensitivity.reached)}"
        )
        print(f"rounded to nearest, it would be {_beside_float(sensitivity.nearest)}")


def _beside_float(fidelity: Fidelity) -> str:
    return (
        f"{fidelity.loss_increase:+z.3%}, {fidelity.agreement:.2%} of span tokens agree, "
        f"{fidelity.expert_agreement:.2%} of all tokens go to the same expert"
    )


def _limits(parsed: argparse.Namespace) -> Limits | None:
    """What was asked for, with the scheme's own for the rest; None where nothing was."""
    given = {name: value for name in LIMITS if (value := getattr(parsed, name)) is not None}
    return replace(DEFAULT_LIMITS[parsed.scheme], **given) if given else None


def _coverage(parsed: argparse.Namespace) -> CoverageRule | None:
    """The same of how well the corpus must reach the experts."""
    given = {field: value for name, field in COVERAGE.items() if (value := getattr(parsed, name)) is not None}
    return replace(DEFAULT_COVERAGE[parsed.scheme], **given) if given else None

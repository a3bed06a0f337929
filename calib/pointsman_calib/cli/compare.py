"""`pointsman-calib compare`: what variants lose on text.

Exit code 0: all limits hold; 1: one does not, or a variant gives values that are not finite.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pointsman.bundle import read_manifest
from pointsman.bundle.writing import one_sentence
from pointsman.errors import OptionsError
from pointsman_calib.cli import corpus_arguments, outputs
from pointsman_calib.comparison import Comparison, Limits, compare
from pointsman_calib.comparison.comparing import GENERATIONS
from pointsman_calib.comparison.counting import Counter, count
from pointsman_calib.comparison.counts import PART
from pointsman_calib.comparison.polygraphy_commands import (
    COMMANDS,
    check_baseline,
    check_commands_folder,
    comparable,
    write_commands,
)
from pointsman_calib.comparison.subject import choose_variants
from pointsman_calib.comparison.summary import guessing
from pointsman_calib.comparison.table import as_text
from pointsman_calib.corpus.text import Corpus
from pointsman_calib.loading import loaded
from pointsman_calib.report import render

DESCRIPTION = (
    "Measure what variants lose on text that they were not quantized with. Exit code 0: all limits hold; 1: one does "
    "not, or a variant gives values that are not finite."
)
EXAMPLES = (
    "pointsman-calib compare build/demo --corpus allenai/c4 --report comparison.html",
    "pointsman-calib compare build/demo --candidate fused-int8 --corpus c4-validation.*.json.gz --max-loss-increase 1",
    "pointsman-calib compare build/demo --corpus allenai/c4 --documents 20000 --shards counted --actors 8 --threads 2",
)
SPLIT: Final = "validation"
OF_ACTORS: Final = ("documents_per_shard", "actors", "threads", "address")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="folder written by pointsman-export")
    parser.add_argument("--baseline", metavar="VARIANT", help="compare with this (default: the most precise float)")
    parser.add_argument(
        "--candidate",
        metavar="VARIANT",
        nargs="+",
        action="extend",
        default=[],
        help="compare these (default: all others but bfloat16)",
    )
    corpus_arguments.add_device(parser)
    _add_corpus(parser.add_argument_group("documents"))
    _add_actors(parser.add_argument_group("actors of Ray, which run variants over shards of the documents"))
    _add_outputs(parser.add_argument_group("output"))
    _add_limits(parser.add_argument_group("limits, which decide the exit code"))


def _add_corpus(group: "argparse._ArgumentGroup") -> None:
    corpus_arguments.add(group, required=True, use="what to compare on", split=SPLIT)
    group.add_argument("--batch-size", type=_at_least(1), default=4, help="documents run together (default: 4)")
    group.add_argument(
        "--generations",
        type=_at_least(0),
        default=GENERATIONS,
        help=f"documents to generate from, for fills, speed and memory; 0: none (default: {GENERATIONS})",
    )


def _add_actors(group: "argparse._ArgumentGroup") -> None:
    """None but the folder has a default here, so that one that was given without it is noticed."""
    group.add_argument(
        "--shards",
        metavar="FOLDER",
        type=Path,
        help="count with Ray, and keep here what is done, so that a run that was stopped goes on (default: without)",
    )
    group.add_argument(
        "--documents-per-shard",
        metavar="N",
        type=_at_least(1),
        help=f"a multiple of the batch size (default: {PART})",
    )
    group.add_argument("--actors", metavar="N", type=_at_least(1), help="how many run at once (default: 1)")
    group.add_argument(
        "--threads",
        metavar="N",
        type=_at_least(1),
        help="CPU threads of an actor (default: one for each core that it may use)",
    )
    group.add_argument("--address", help="of a Ray cluster (default: one of this machine)")


def _add_outputs(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--layers", action="store_true", help="compare the residual stream after each block too")
    group.add_argument("--json", action="store_true", help="one JSON document on stdout, the tables on stderr")
    group.add_argument(
        "--report",
        metavar="FILE",
        type=Path,
        help="write one HTML page, with --layers; it shows some of the text (default: none)",
    )
    group.add_argument(
        "--commands",
        metavar="FOLDER",
        type=Path,
        help="write inputs and `polygraphy run` lines into a new folder (default: none)",
    )


def _add_limits(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--max-loss-increase",
        metavar="PERCENT",
        type=float,
        help="most that the loss may be above the baseline's (default: no limit)",
    )
    group.add_argument(
        "--min-agreement",
        metavar="PERCENT",
        type=float,
        help="least share of labels with the baseline's token (default: no limit)",
    )
    group.add_argument(
        "--min-expert-agreement",
        metavar="PERCENT",
        type=float,
        help="least share of tokens at the baseline's expert (default: no limit)",
    )
    group.add_argument(
        "--min-sqnr", metavar="DB", type=float, help="least signal to error of the logits (default: no limit)"
    )


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if (given := int(text)) < least:
            raise argparse.ArgumentTypeError(f"{given} is too small; give {least} or more")
        return given

    return number


def run(parsed: argparse.Namespace) -> int:
    """Compare, and print and write what was asked for; 0 where every limit holds, 1 where one does not."""
    limits = _limits(parsed)
    _check_outputs(parsed)
    counter = _counter(parsed)
    manifest = read_manifest(parsed.bundle)
    baseline, _ = choose_variants(manifest, parsed.baseline, parsed.candidate)  # before a corpus is fetched
    if parsed.commands is not None:
        check_baseline(baseline, manifest.variants[baseline])
    corpus = corpus_arguments.read(parsed, split=SPLIT)
    comparison = compare(
        parsed.bundle,
        corpus,
        baseline=parsed.baseline,
        candidates=parsed.candidate,
        limits=limits,
        layers=parsed.layers or parsed.report is not None,
        batch_size=parsed.batch_size,
        generations=parsed.generations,
        device=parsed.device,
        counter=counter,
    )
    _print(comparison, corpus_arguments.used(parsed, corpus), as_json=parsed.json)
    if parsed.report is not None:
        _write_report(parsed.report, comparison)
    if parsed.commands is not None:
        _write_commands(parsed.commands, comparison, corpus)
    return 0 if comparison.passed else 1


def _counter(parsed: argparse.Namespace) -> Counter:
    """Who runs variants over the documents.

    Raises:
        OptionsError: an option of actors is given, and no folder for their shards.
        DependencyError: Ray is not installed.
    """
    given = {name: value for name in OF_ACTORS if (value := getattr(parsed, name)) is not None}
    if parsed.shards is None:
        if given:
            flag = f"--{next(iter(given)).replace('_', '-')}"
            raise OptionsError(f"without --shards, {flag} has no effect; name a folder with --shards, or leave it out")
        return count
    counter: Counter = loaded("pointsman_calib.ray", "ray").Shards(folder=parsed.shards, **given)
    return counter


def _limits(parsed: argparse.Namespace) -> Limits:
    return Limits(
        max_loss_increase=parsed.max_loss_increase,
        min_agreement=parsed.min_agreement,
        min_expert_agreement=parsed.min_expert_agreement,
        min_sqnr=parsed.min_sqnr,
    )


def _check_outputs(parsed: argparse.Namespace) -> None:
    """Refuse what could not be written, before anything long is run."""
    if parsed.report is not None:
        outputs.check_file(parsed.report, "--report")
    if parsed.commands is not None:
        check_commands_folder(parsed.commands)


def _print(comparison: Comparison, used: str, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(comparison.to_json())
    (sys.stderr if as_json else sys.stdout).write(f"corpus: {used}\n{as_text(comparison)}")
    if (sentence := guessing(comparison)) is not None:
        _say(sentence)


def _write_report(path: Path, comparison: Comparison) -> None:
    with one_sentence(path):
        path.write_text(render(comparison), encoding="utf-8")
    _say(f"wrote {path}")


def _write_commands(folder: Path, comparison: Comparison, corpus: Corpus) -> None:
    manifest = read_manifest(Path(comparison.bundle))
    results = (comparison.baseline, *(candidate.variant for candidate in comparison.candidates))
    variants = {result.name: manifest.variants[result.name] for result in results}
    document = next(corpus.batches(manifest.architecture, 1))
    write_commands(folder, Path(comparison.bundle), variants, document)
    if left_out := variants.keys() - comparable(variants).keys():
        _say(
            f"no commands for {', '.join(sorted(left_out))}: Polygraphy's products of bytes saturate on this processor"
        )
    _say(f"wrote {folder}; compare again with `sh {folder / COMMANDS}`")


def _say(sentence: str) -> None:
    print(f"pointsman-calib: {sentence}", file=sys.stderr)

"""A whole comparison: run the variants, generate, judge."""

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from pointsman.bundle.manifest import installed_versions
from pointsman.model import SwitchModel
from pointsman_calib.compare.comparison import SCHEMA, CandidateResult, Comparison, Evaluation, Limits, VariantResult
from pointsman_calib.compare.generation import agreement, generate, ms_per_token
from pointsman_calib.compare.results import NOTHING_GENERATED, Generated, candidate_result, variant_result
from pointsman_calib.compare.runners import TeacherForcingRunner
from pointsman_calib.compare.subject import Subject
from pointsman_calib.compare.tallies import PairTally, VariantTally
from pointsman_calib.compare.teacher_forcing import tally_all
from pointsman_calib.corpus.text import Corpus

PACKAGES: Final = ("pointsman", "onnxruntime", "polygraphy", "numpy")
ENGINE: Final = "ONNX Runtime on the CPU"
MAX_NEW_TOKENS: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How variants are compared.

    Attributes:
        layers: whether to compare the residual stream after each block.
        limits: what candidates must hold.
        batch_size: documents run together.
        generated: documents to generate from, and to measure speed on; 0 for none.
    """

    layers: bool = False
    limits: Limits = field(default_factory=Limits)
    batch_size: int = 4
    generated: int = 4


def compare_bundle(
    subject: Subject,
    corpus: Corpus,
    evaluation: Evaluation,
    settings: Settings,
    *,
    progress: Callable[[int], object] = int,
) -> Comparison:
    """Compare variants of a bundle on span-corrupted documents.

    Args:
        subject: what `subject.open_subject` gave.
        corpus: the documents.
        evaluation: what `subject.survey` gave for them.
        settings: how to compare.
        progress: told the number of documents after each batch.

    Raises:
        ParityError: the baseline's values are not finite.
        BundleError: the engine refuses a graph.
    """
    baseline, candidates = _results(subject, corpus, settings, progress)
    source = subject.manifest.source
    return Comparison(
        schema=SCHEMA,
        bundle=str(subject.bundle),
        source=source.name,
        source_sha256=source.sha256,
        versions=installed_versions(PACKAGES),
        date=datetime.now(UTC).date().isoformat(),
        engine=ENGINE,
        machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        evaluation=evaluation,
        limits=settings.limits,
        baseline=baseline,
        candidates=candidates,
    )


def _results(
    subject: Subject, corpus: Corpus, settings: Settings, progress: Callable[[int], object]
) -> tuple[VariantResult, tuple[CandidateResult, ...]]:
    """Run everything, and judge; the baseline, and the candidates in their order."""
    tallies, pairs = _teacher_forced(subject, corpus, settings, progress)
    finite = [name for name, tally in tallies.items() if not tally.non_finite]
    generated = dict.fromkeys(subject.names, NOTHING_GENERATED) | _generated(subject, corpus, settings, finite)
    results = {
        name: variant_result(name, variant, tallies[name], generated[name], seed=corpus.seed)
        for name, variant in subject.variants.items()
    }
    baseline = subject.names[0]
    candidates = (
        candidate_result(
            results[name],
            tallies[baseline],
            tallies[name],
            pair,
            generated[name],
            limits=settings.limits,
            seed=corpus.seed,
        )
        for name, pair in pairs.items()
    )
    return results[baseline], tuple(candidates)


def _teacher_forced(
    subject: Subject, corpus: Corpus, settings: Settings, progress: Callable[[int], object]
) -> tuple[dict[str, VariantTally], dict[str, PairTally]]:
    architecture = subject.manifest.architecture
    runners = [
        TeacherForcingRunner(subject.bundle, name, variant, architecture, layers=settings.layers)
        for name, variant in subject.variants.items()
    ]
    tallies, pairs = tally_all(
        runners,
        lambda: corpus.batches(architecture, settings.batch_size),
        num_experts=architecture.num_experts,
        progress=progress,
    )
    return dict(zip(subject.names, tallies, strict=True)), dict(zip(subject.names[1:], pairs, strict=True))


def _generated(subject: Subject, corpus: Corpus, settings: Settings, names: Sequence[str]) -> dict[str, Generated]:
    """Generate from the first documents with each variant, loaded anew for single steps, and time them in turns."""
    inputs = [example.inputs.tolist() for example in corpus.examples[: settings.generated]]
    if not inputs:
        return {}
    models = {name: SwitchModel.load(subject.bundle, "cpu", name, verify=False) for name in names}
    texts = {name: generate(model, inputs, max_new_tokens=MAX_NEW_TOKENS) for name, model in models.items()}
    milliseconds = ms_per_token(models, inputs)
    reference = texts[names[0]]
    return {name: Generated(milliseconds[name], agreement(reference, texts[name])) for name in names}

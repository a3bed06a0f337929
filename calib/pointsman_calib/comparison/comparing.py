"""A whole comparison: each candidate beside the baseline, then each variant by itself, then the judgement."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pointsman.backends.onnxruntime.session import Device
from pointsman.bundle import names
from pointsman.bundle.manifest import installed_versions
from pointsman.errors import OptionsError
from pointsman.text.tokenizer import Tokenizer
from pointsman_calib.comparison.counting import Counter, Reading, count
from pointsman_calib.comparison.counts import Counts
from pointsman_calib.comparison.judging import candidate_result, variant_result
from pointsman_calib.comparison.machine import machine
from pointsman_calib.comparison.measuring.generation import NOTHING_GENERATED, Generated, measure_generation
from pointsman_calib.comparison.measuring.passages import passages
from pointsman_calib.comparison.records import (
    SCHEMA,
    CandidateResult,
    Comparison,
    Evaluation,
    FilledPassage,
    VariantResult,
)
from pointsman_calib.comparison.subject import Subject, open_subject, survey
from pointsman_calib.corpus.text import Corpus, Text, as_corpus
from pointsman_calib.graphs.pieces import open_device
from pointsman_calib.settle.limits import Limits

PACKAGES: Final = ("pointsman", "onnxruntime", "polygraphy", "numpy")
ENGINES: Final[dict[Device, str]] = {"cpu": "ONNX Runtime on the CPU", "cuda": "ONNX Runtime on a GPU"}
GENERATIONS: Final = 5
"""Documents to generate from where nothing else is said."""


def compare(
    bundle: str | Path,
    corpus: Text,
    *,
    baseline: str | None = None,
    candidates: Sequence[str] = (),
    limits: Limits | None = None,
    layers: bool = False,
    batch_size: int = 4,
    generations: int = GENERATIONS,
    device: Device = "cpu",
    counter: Counter = count,
) -> Comparison:
    """Compare variants of a bundle on span-corrupted documents, on ONNX Runtime.

    No more than the baseline and one candidate are in memory at once, a piece of each at a time; one whole model while
    variants generate. What a variant takes is measured in a process of its own. Progress goes to stderr.

    Args:
        bundle: its folder.
        corpus: what to compare on: one that was read, or files, patterns and hub ids, of which 128 documents are read
            (of the hub, those of the validation split). No variant may have been calibrated on any of it.
        baseline: the variant to compare with; the most precise float one where None.
        candidates: variants; all others that can run where empty.
        limits: what candidates must hold; None asks for nothing but finite values.
        layers: whether to compare the residual stream after each block too.
        batch_size: documents run together.
        generations: documents to generate from and to measure speed and memory on; 0 for none.
        device: where variants run, `cpu` or `cuda`.
        counter: who runs variants over the documents: this process, or actors of Ray (`pointsman_calib.ray.Shards`).
            Generations, speed and memory are of this process in any case.

    Raises:
        BundleNotFoundError: there is no bundle.
        BundleError: it is damaged, lacks a variant, or the engine refuses a graph.
        DeviceError: a variant that was named cannot be run here.
        OptionsError: a variant is named twice, or a number is out of range.
        CorpusError: the corpus cannot be read, or a variant was calibrated on some of it.
        ParityError: the baseline's values are not finite.
        OutputError: shards cannot be written, or were made otherwise.
    """
    _check("batch_size", batch_size, least=1)
    _check("generations", generations, least=0)
    subject, judged_by = open_subject(Path(bundle), baseline, candidates), limits or Limits()
    text = as_corpus(subject.bundle, corpus, split="validation")
    evaluation = survey(subject, text)
    open_device(device)
    pairs = counter(Reading(subject=subject, corpus=text, layers=layers, batch_size=batch_size, device=device))
    generated = _generated(subject, pairs, text, generations, device)
    results = _results(subject, pairs, generated, judged_by, text.seed)
    return _comparison(subject, evaluation, judged_by, ENGINES[device], *results, _passages(subject, text, generated))


def _check(name: str, number: int, *, least: int) -> None:
    if number < least:
        raise OptionsError(f"{name} is {number}; give {least} or more")


def _generated(subject: Subject, pairs: Counts, corpus: Corpus, documents: int, device: Device) -> dict[str, Generated]:
    """What variants with finite values generate from the first documents."""
    finite = [subject.baseline, *(name for name, counted in pairs.items() if not counted.candidate.non_finite)]
    inputs = [example.inputs.tolist() for example in corpus.examples[:documents]]
    measured = measure_generation(subject.bundle, finite, inputs, device)
    return dict.fromkeys(subject.names, NOTHING_GENERATED) | measured


def _results(
    subject: Subject, pairs: Counts, generated: Mapping[str, Generated], limits: Limits, seed: int
) -> tuple[VariantResult, tuple[CandidateResult, ...]]:
    """The baseline's, and the candidates' in their order, judged."""
    first = next(iter(pairs.values()))
    tallies = {subject.baseline: first.baseline} | {name: counted.candidate for name, counted in pairs.items()}
    results = {
        name: variant_result(name, variant, subject.manifest.architecture, tallies[name], generated[name], seed=seed)
        for name, variant in subject.variants.items()
    }
    candidates = (
        candidate_result(results[name], counted, generated[name].agreement, limits=limits, seed=seed)
        for name, counted in pairs.items()
    )
    return results[subject.baseline], tuple(candidates)


def _passages(subject: Subject, corpus: Corpus, generated: Mapping[str, Generated]) -> tuple[FilledPassage, ...]:
    """What variants put in the first blanks with 4 beams."""
    tokenizer = Tokenizer.load(subject.bundle / names.TOKENIZER, extra_ids=subject.manifest.extra_ids)
    outputs = {name: found.outputs["4 beams"] for name, found in generated.items() if found.outputs}
    return passages(tokenizer, corpus.examples, outputs)


def _comparison(
    subject: Subject,
    evaluation: Evaluation,
    limits: Limits,
    engine: str,
    baseline: VariantResult,
    candidates: tuple[CandidateResult, ...],
    filled: tuple[FilledPassage, ...],
) -> Comparison:
    source = subject.manifest.source
    return Comparison(
        schema=SCHEMA,
        bundle=str(subject.bundle),
        source=source.name,
        source_sha256=source.sha256,
        versions=installed_versions(PACKAGES),
        date=datetime.now(UTC).date().isoformat(),
        engine=engine,
        machine=machine(),
        evaluation=evaluation,
        limits=limits,
        baseline=baseline,
        candidates=candidates,
        passages=filled,
    )

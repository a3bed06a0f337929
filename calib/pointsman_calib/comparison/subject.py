"""What is compared, and on what: a verified bundle's variants, and documents that none was calibrated on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pointsman.bundle import Manifest, Variant, read_manifest, verify_files
from pointsman_calib.comparison.records import Evaluation
from pointsman_calib.comparison.variants import calibrated_on, choose_variants
from pointsman_calib.corpus.documents import DocumentSet, refuse_overlap
from pointsman_calib.corpus.text import Corpus


@dataclass(frozen=True, slots=True)
class Subject:
    """What is compared.

    Attributes:
        bundle: its folder.
        manifest: the bundle's.
        names: of the variants, the baseline first.
    """

    bundle: Path
    manifest: Manifest
    names: tuple[str, ...]

    @property
    def variants(self) -> dict[str, Variant]:
        """The variants by name, the baseline first."""
        return {name: self.manifest.variants[name] for name in self.names}


def open_subject(bundle: Path, baseline: str | None = None, candidates: Sequence[str] = ()) -> Subject:
    """Read a bundle, settle which variants are compared, and verify their files.

    Args:
        bundle: its folder.
        baseline: a variant; the most precise float one where None.
        candidates: variants; all others where empty.

    Raises:
        BundleNotFoundError: there is no bundle.
        BundleError: it is damaged, or lacks a variant.
        DeviceError: a variant that was named cannot be run here.
        OptionsError: a variant is named twice.
    """
    manifest = read_manifest(bundle)
    chosen, others = choose_variants(manifest, baseline, candidates)
    files = [file for name in (chosen, *others) for file in manifest.variants[name].files]
    verify_files(bundle, (*dict.fromkeys(files), *manifest.tokenizer))
    return Subject(bundle, manifest, (chosen, *others))


def survey(subject: Subject, corpus: Corpus, sources: Sequence[str]) -> Evaluation:
    """Describe the documents, and check that they can be compared on, before anything is run.

    Args:
        subject: what they are for.
        corpus: the documents.
        sources: where they were read from.

    Raises:
        CorpusError: a variant was calibrated on some of them.
    """
    documents = DocumentSet.of(corpus.examples)
    for variant in subject.variants.values():
        refuse_overlap(calibrated_on(variant), documents)
    return Evaluation(
        sources=tuple(sources),
        documents=len(documents),
        sha256=documents.sha256,
        seed=corpus.seed,
        window=corpus.window,
        source_tokens=sum(example.inputs.size for example in corpus.examples),
        label_tokens=sum(example.targets.size for example in corpus.examples),
        span_tokens=sum(int(example.span_mask.sum()) for example in corpus.examples),
    )

"""What is compared, and on what: a verified bundle's variants, and documents that none was calibrated on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pointsman.bundle import Manifest, Variant, read_manifest, verify_files
from pointsman.errors import BundleError, DeviceError, OptionsError
from pointsman.wording import no_variant
from pointsman_calib.comparison.records import Evaluation
from pointsman_calib.corpus.documents import DocumentSet, refuse_overlap
from pointsman_calib.corpus.text import Corpus

# Most precise first. The CPU engine has no bfloat16, so such variants are not compared.
_FLOATS: Final = ("fused-float32", "portable-float32", "fused-float16", "portable-float16")


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
    def baseline(self) -> str:
        """Name of the variant that the others are compared with."""
        return self.names[0]

    @property
    def candidates(self) -> tuple[str, ...]:
        """Names of the others."""
        return self.names[1:]

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


def choose_variants(manifest: Manifest, baseline: str | None, candidates: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Settle the names of the baseline and of the candidates.

    Args:
        manifest: of the bundle.
        baseline: a variant; the most precise float one where None.
        candidates: variants; all but the baseline where empty, save those that the engine cannot run.

    Raises:
        BundleError: the bundle lacks one, or has none to choose.
        DeviceError: one that was named is bfloat16.
        OptionsError: the baseline is a candidate too, or a candidate is named twice.
    """
    variants = manifest.variants
    for name in (*candidates, *([baseline] if baseline is not None else [])):
        _check(variants, name)
    chosen = baseline or next((name for name in _FLOATS if name in variants), None)
    if chosen is None:
        raise BundleError(f"no variant here can be a baseline (there are {', '.join(variants)}); export a float32 one")
    if chosen in candidates or len(set(candidates)) < len(candidates):
        raise OptionsError(f"each variant is compared once, with baseline {chosen}; name other candidates")
    others = tuple(candidates) or tuple(
        name for name, variant in variants.items() if name != chosen and variant.precision != "bfloat16"
    )
    if not others:
        raise BundleError(
            f"the bundle has no variant to compare with {chosen}; add one with `pointsman-calib quantize`, "
            "or export it with `pointsman-export bundle --form both`"
        )
    return chosen, others


def _check(variants: Mapping[str, Variant], name: str) -> None:
    if name not in variants:
        raise BundleError(no_variant(name, variants))
    if variants[name].precision == "bfloat16":
        raise DeviceError(f"ONNX Runtime does not run bfloat16 on the CPU; compare another variant than {name}")


def calibrated_on(variant: Variant) -> DocumentSet:
    """The documents that a variant was fitted to; none for float variants, and where only weights were looked at."""
    calibration = variant.quantization and variant.quantization.calibration
    return DocumentSet(frozenset(calibration.documents if calibration else ()))


def survey(subject: Subject, corpus: Corpus) -> Evaluation:
    """Describe the documents, and check that they can be compared on, before anything is run.

    Args:
        subject: what they are for.
        corpus: the documents.

    Raises:
        CorpusError: a variant was calibrated on some of them.
    """
    documents = DocumentSet.of(corpus.examples)
    for variant in subject.variants.values():
        refuse_overlap(calibrated_on(variant), documents)
    return Evaluation(
        sources=corpus.sources,
        documents=len(documents),
        sha256=documents.sha256,
        seed=corpus.seed,
        window=corpus.window,
        source_tokens=sum(example.inputs.size for example in corpus.examples),
        label_tokens=sum(example.targets.size for example in corpus.examples),
        span_tokens=sum(int(example.span_mask.sum()) for example in corpus.examples),
        ids=subject.manifest.architecture.vocab_size,
    )

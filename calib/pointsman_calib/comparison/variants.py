"""Which variants of a bundle are compared with which, and what they were calibrated on."""

from collections.abc import Mapping, Sequence
from typing import Final

from pointsman.bundle import Manifest, Variant
from pointsman.errors import BundleError, DeviceError, OptionsError
from pointsman_calib.corpus.documents import DocumentSet

# Most precise first. The CPU engine has no bfloat16, so such variants are not compared.
_FLOATS: Final = ("fused-float32", "portable-float32", "fused-float16", "portable-float16")


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
            "or export it with --form both"
        )
    return chosen, others


def _check(variants: Mapping[str, Variant], name: str) -> None:
    if name not in variants:
        raise BundleError(f"the bundle has no variant {name!r}; it has {', '.join(variants)}")
    if variants[name].precision == "bfloat16":
        raise DeviceError(f"ONNX Runtime does not run bfloat16 on the CPU; compare another variant than {name}")


def calibrated_on(variant: Variant) -> DocumentSet:
    """The documents that a variant was fitted to; none for float variants, and where only weights were looked at."""
    calibration = variant.quantization and variant.quantization.calibration
    return DocumentSet(frozenset(calibration.documents if calibration else ()))

"""A quantized variant beside a bundle's float ones: it appears whole, or the bundle is as it was."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pointsman.errors import BundleError, OutputExistsError
from pointsman.manifest import Manifest, Scheme, Variant, read_manifest, verify_files, write_manifest
from pointsman.writing import replacing
from pointsman_calib import weight_only
from pointsman_calib.corpus import Corpus


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the variant of a scheme is made.

    Attributes:
        name: of the variant; the scheme is also the folder of its files, `variants/<scheme>`.
        source: name of the float variant that it comes from.
        write: makes the variant's files. Takes the bundle, its manifest, the scheme, the corpus or None, and the folder
            to write in, which becomes `variants/<scheme>`; returns the variant.
    """

    name: str
    source: str
    write: Callable[[Path, Manifest, Scheme, Corpus | None, Path], Variant]


RECIPES: Final[dict[Scheme, Recipe]] = {
    "int8": Recipe("fused-int8", weight_only.SOURCE, weight_only.write_variant),
    "int4": Recipe("fused-int4", weight_only.SOURCE, weight_only.write_variant),
}


def quantize_bundle(
    bundle: str | Path, scheme: Scheme, *, corpus: Corpus | None = None, force: bool = False
) -> Variant:
    """Add a quantized variant to a bundle. The same bundle, corpus and versions give the same bytes.

    Args:
        bundle: with the float variant that the scheme's recipe names.
        scheme: one of `RECIPES`.
        corpus: what to calibrate on; without one, only the weights themselves are looked at.
        force: whether to replace the variant if it is there.

    Raises:
        BundleNotFoundError: there is no bundle.
        BundleError: it is damaged, or lacks the float variant.
        OutputExistsError: the variant is there and `force` is not given.
        OutputError: it cannot be written.
    """
    folder, recipe = Path(bundle), RECIPES[scheme]
    manifest = read_manifest(folder)
    if recipe.source not in manifest.variants:
        form, _, dtype = recipe.source.partition("-")
        raise BundleError(
            f"{folder} has no {recipe.source} variant to quantize; export it with --form {form} --dtype {dtype}"
        )
    if recipe.name in manifest.variants and not force:
        raise OutputExistsError(f"{folder} has a {recipe.name} variant already; replace it with --force")
    verify_files(folder, manifest.variants[recipe.source].files)
    with replacing(folder / "variants" / scheme) as partial:
        variant = recipe.write(folder, manifest, scheme, corpus, partial)
    write_manifest(replace(manifest, variants={**manifest.variants, recipe.name: variant}), folder)
    return variant

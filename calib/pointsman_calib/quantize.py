"""A quantized variant beside a bundle's float ones: it appears whole, or the bundle is as it was."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, get_args

from pointsman.bundle import Manifest, Scheme, Variant, names, read_manifest, verify_files, write_manifest
from pointsman.bundle.writing import replacing
from pointsman.errors import BundleError, OptionsError, OutputExistsError
from pointsman_calib.corpus.coverage import CoverageRule
from pointsman_calib.corpus.text import Corpus
from pointsman_calib.ranges.table import RangeTable
from pointsman_calib.schemes import qdq, weight_only
from pointsman_calib.settle import Limits

SCHEMES: Final[tuple[Scheme, ...]] = get_args(Scheme)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the variant of a scheme is made.

    Attributes:
        name: of the variant.
        source: name of the float variant that it comes from.
        write: makes the variant's files. Takes the bundle, its manifest, and the folder to write in, which becomes
            `variants/<scheme>`; returns the variant.
    """

    name: str
    source: str
    write: Callable[[Path, Manifest, Path], Variant]


def recipe_of(
    scheme: Scheme,
    *,
    corpus: Corpus | None,
    limits: Limits | None,
    table: RangeTable | None,
    clipping: qdq.Clipping | None,
    coverage: CoverageRule | None = None,
) -> Recipe:
    """The recipe of a scheme; arguments as of `quantize_bundle`.

    Raises:
        OptionsError: what is given to a scheme is of no use to it.
    """
    if scheme == qdq.SCHEME:
        if coverage is not None:
            raise OptionsError(f"{scheme} has its rule of coverage in its clipping: leave coverage out")
        write = functools.partial(
            qdq.write_variant, corpus=corpus, table=table, clipping=clipping or qdq.DEFAULT, limits=limits
        )
        return Recipe(qdq.NAME, qdq.SOURCE, write)
    if table is not None or clipping is not None:
        raise OptionsError(f"{scheme} rounds activations as it runs: ranges of activations are for {qdq.SCHEME}")
    rule = coverage or CoverageRule()
    return Recipe(
        f"fused-{scheme}",
        weight_only.SOURCE,
        lambda bundle, manifest, place: weight_only.write_variant(
            bundle, manifest, scheme, place, corpus=corpus, limits=limits, coverage=rule
        ),
    )


def quantize_bundle(
    bundle: str | Path,
    scheme: Scheme,
    *,
    corpus: Corpus | None = None,
    limits: Limits | None = None,
    table: RangeTable | None = None,
    clipping: qdq.Clipping | None = None,
    coverage: CoverageRule | None = None,
    force: bool = False,
) -> Variant:
    """Add a quantized variant to a bundle. The same bundle, corpus and versions give the same bytes.

    Args:
        bundle: with the float variant that the scheme's recipe names.
        scheme: one of `SCHEMES`.
        corpus: what to calibrate on; without one, only the weights themselves are looked at.
        limits: what to hold to on the corpus; the scheme's own where None.
        table: for `int8-qdq` in the corpus's place, ranges that were collected before.
        clipping: for `int8-qdq`, how ranges become scales.
        coverage: for the other schemes, how well the corpus must reach the experts.
        force: whether to replace the variant if it is there.

    Raises:
        BundleNotFoundError: there is no bundle.
        BundleError: it is damaged, or lacks the float variant; or the table is of another bundle.
        OptionsError: the scheme does not go with the other arguments, or the limits leave nothing quantized.
        CorpusError: the corpus reached too few experts.
        OutputExistsError: the variant is there and `force` is not given.
        OutputError: it cannot be written.
        KeyboardInterrupt: interrupted; has a message where the bundle is not as it was.
    """
    if (limits is not None or coverage is not None) and corpus is None:
        raise OptionsError("limits are checked on a corpus: give one, or leave the limits out")
    if limits is not None and limits.min_sqnr is not None:
        raise OptionsError("the signal-to-noise ratio is measured by comparisons only: leave min_sqnr out")
    folder = Path(bundle)
    recipe = recipe_of(scheme, corpus=corpus, limits=limits, table=table, clipping=clipping, coverage=coverage)
    manifest = open_bundle(folder, recipe, force=force)
    verify_files(folder, manifest.variants[recipe.source].files)
    try:
        with replacing(folder / names.variant_folder(scheme)) as partial:
            variant = recipe.write(folder, manifest, partial)
            _update(folder, recipe.name, None)  # killed from here on, a replaced variant is absent, and never damaged
        _update(folder, recipe.name, variant)
    except BaseException as stopped:
        if not _put_back(folder, recipe.name, manifest.variants.get(recipe.name)) and isinstance(
            stopped, KeyboardInterrupt
        ):
            raise KeyboardInterrupt(f"{recipe.name} was being put in its place: run the same command again") from None
        raise
    return variant


def open_bundle(bundle: Path, recipe: Recipe, *, force: bool) -> Manifest:
    """Read a bundle's manifest, and check that a recipe's variant can be added to it.

    Raises:
        BundleNotFoundError: there is no bundle.
        BundleError: it is damaged, or lacks the float variant.
        OutputExistsError: the variant is there and `force` is not given.
    """
    manifest = read_manifest(bundle)
    if recipe.source not in manifest.variants:
        form, _, dtype = recipe.source.partition("-")
        raise BundleError(
            f"{bundle} has no {recipe.source} variant to quantize; export it with --form {form} --dtype {dtype}"
        )
    if recipe.name in manifest.variants and not force:
        raise OutputExistsError(f"{bundle} has a {recipe.name} variant already; replace it with --force")
    return manifest


def _update(folder: Path, name: str, variant: Variant | None) -> None:
    """Change one variant in the manifest, as it is by now."""
    manifest = read_manifest(folder)
    others = {known: other for known, other in manifest.variants.items() if known != name}
    changed = others if variant is None else {**others, name: variant}
    if changed != manifest.variants:
        write_manifest(replace(manifest, variants=changed), folder)


def _put_back(folder: Path, name: str, old: Variant | None) -> bool:
    """Undo what can be undone in the manifest; whether it is as it was."""
    if old is not None and name not in read_manifest(folder).variants and not _damaged(folder, old):
        _update(folder, name, old)
    return read_manifest(folder).variants.get(name) == old


def _damaged(folder: Path, variant: Variant) -> bool:
    try:
        verify_files(folder, variant.files)
    except BundleError:
        return True
    return False

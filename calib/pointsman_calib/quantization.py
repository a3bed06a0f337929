"""A quantized variant beside a bundle's float ones: it appears whole, or the bundle is as it was."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, get_args

from pointsman.backends.onnxruntime.session import Device
from pointsman.bundle import Manifest, Scheme, Variant, names, read_manifest, verify_files, write_manifest
from pointsman.bundle.writing import one_at_a_time, replacing
from pointsman.errors import BundleError, OptionsError, OutputExistsError
from pointsman_calib.corpus.coverage import DEFAULT_COVERAGE, CoverageRule
from pointsman_calib.corpus.text import Corpus, Text, as_corpus
from pointsman_calib.graphs.pieces import open_device
from pointsman_calib.ranges import Method, check_method
from pointsman_calib.ranges.table import RangeTable, read_range_table
from pointsman_calib.schemes import qdq, weight_only
from pointsman_calib.settle import DEFAULT_LIMITS, Limits

SCHEMES: Final[tuple[Scheme, ...]] = get_args(Scheme)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Which variant a scheme makes of which.

    Attributes:
        name: of the variant.
        sources: names of float variants that it can come from; of those that a bundle has, it comes from the first.
    """

    name: str
    sources: tuple[str, ...]

    def source(self, manifest: Manifest) -> str | None:
        """Name of the float variant that it comes from; None where the bundle has none."""
        return next((name for name in self.sources if name in manifest.variants), None)


RECIPES: Final[dict[Scheme, Recipe]] = {
    "int8": Recipe("fused-int8", weight_only.SOURCES),
    "int4": Recipe("fused-int4", weight_only.SOURCES),
    "int8-qdq": Recipe("portable-int8-qdq", (qdq.SOURCE,)),
}


def quantize(
    bundle: str | Path,
    scheme: Scheme,
    *,
    corpus: Text | None = None,
    limits: Limits | None = None,
    coverage: CoverageRule | None = None,
    ranges: RangeTable | str | Path | None = None,
    method: Method | None = None,
    force: bool = False,
    device: Device = "cpu",
) -> Variant:
    """Add a quantized variant to a bundle. The same bundle, corpus and versions give the same bytes.

    Progress goes to stderr.

    Args:
        bundle: with a float variant that the scheme's recipe names.
        scheme: one of `SCHEMES`.
        corpus: what to calibrate on: one that was read, or files, patterns and hub ids, of which 128 documents are
            read. Without one, only the weights themselves are looked at.
        limits: what to hold to on the corpus; the scheme's own where None.
        coverage: how well the corpus must reach the experts; the scheme's own where None.
        ranges: for `int8-qdq` in the corpus's place, a table of ranges that were observed before, or its file.
        method: for `int8-qdq`, which of the ranges to clip to: `minmax`, `percentile`, `entropy` or `mse`, the default.
        force: whether to replace the variant if it is there.
        device: where graphs run over the corpus, `cpu` or `cuda`.

    Raises:
        DeviceError: the device cannot be used.
        BundleNotFoundError: there is no bundle.
        BundleError: it is damaged, or lacks the float variant; or the ranges cannot be read or are of another bundle.
        OptionsError: the scheme does not go with the other arguments, or the limits leave nothing quantized.
        CorpusError: the corpus cannot be read, or reached too few experts.
        OutputExistsError: the variant is there and `force` is not given.
        OutputError: it cannot be written.
        KeyboardInterrupt: interrupted; has a message where the bundle is not as it was.
    """
    _check(limits, coverage, corpus, ranges)
    folder, table = Path(bundle), ranges if isinstance(ranges, RangeTable | None) else read_range_table(Path(ranges))
    manifest, source = prepare(folder, scheme, ranges=table, method=method, force=force, has_corpus=corpus is not None)
    write = functools.partial(
        _write,
        folder,
        manifest,
        scheme,
        source=source,
        corpus=None if corpus is None else as_corpus(folder, corpus, split="train"),
        limits=limits or DEFAULT_LIMITS[scheme],
        coverage=coverage or DEFAULT_COVERAGE[scheme],
        ranges=table,
        method=method or qdq.DEFAULT_METHOD,
        device=device,
    )
    open_device(device)
    verify_files(folder, manifest.variants[source].files)
    return _put_in_place(folder, scheme, manifest.variants.get(RECIPES[scheme].name), write)


def prepare(
    bundle: Path,
    scheme: Scheme,
    *,
    ranges: RangeTable | None,
    method: Method | None,
    force: bool,
    has_corpus: bool,
) -> tuple[Manifest, str]:
    """Read a bundle's manifest, and check all that can be checked before a corpus is fetched and read.

    Returns:
        the manifest, and the name of the float variant that is quantized.

    Raises:
        BundleNotFoundError: there is no bundle.
        BundleError: its manifest is damaged, or it lacks the float variant, or has none that can be run on a corpus.
        OptionsError: what is given to the scheme is of no use to it.
        OutputExistsError: the variant is there and `force` is not given.
    """
    if scheme not in RECIPES:
        raise OptionsError(f"unknown scheme {scheme!r}; use {', '.join(SCHEMES)}")
    recipe = RECIPES[scheme]
    if scheme != qdq.SCHEME and (ranges is not None or method is not None):
        raise OptionsError(f"{scheme} rounds activations as it runs: ranges of activations are for {qdq.SCHEME}")
    if method is not None:
        check_method(method)
    manifest = read_manifest(bundle)
    source, exported = recipe.source(manifest), recipe.sources[0]
    form, _, dtype = exported.partition("-")
    if source is None:
        raise BundleError(
            f"{bundle} has no {exported} variant to quantize; "
            f"export it with `pointsman-export bundle --form {form} --dtype {dtype}`"
        )
    if has_corpus and source != exported:
        raise BundleError(
            f"{bundle} has {source} to quantize, which does not run on the CPU, and weights are rounded for a corpus "
            f"there; leave the corpus out, or export it with `pointsman-export bundle --form {form} --dtype {dtype}`"
        )
    if recipe.name in manifest.variants and not force:
        raise OutputExistsError(f"{bundle} has a {recipe.name} variant already; replace it with `force=True`")
    return manifest, source


def _check(limits: Limits | None, coverage: CoverageRule | None, corpus: object, ranges: object) -> None:
    if limits is not None and corpus is None:
        raise OptionsError("limits are checked on a corpus: give one, or leave the limits out")
    if coverage is not None and corpus is None and ranges is None:
        raise OptionsError("a corpus reaches experts, and here is none: give one, or leave the rule of coverage out")
    if limits is not None and limits.min_sqnr is not None:
        raise OptionsError("the signal-to-noise ratio is measured by comparisons only: leave min_sqnr out")


def _write(
    bundle: Path,
    manifest: Manifest,
    scheme: Scheme,
    place: Path,
    *,
    source: str,
    corpus: Corpus | None,
    limits: Limits,
    coverage: CoverageRule,
    ranges: RangeTable | None,
    method: Method,
    device: Device,
) -> Variant:
    """Write the variant's files into a folder, which becomes `variants/<scheme>`."""
    if scheme == qdq.SCHEME:
        return qdq.write_variant(
            bundle,
            manifest,
            place,
            corpus=corpus,
            ranges=ranges,
            method=method,
            coverage=coverage,
            limits=limits,
            device=device,
        )
    return weight_only.write_variant(
        bundle,
        manifest,
        scheme,
        place,
        source=source,
        corpus=corpus,
        coverage=coverage,
        limits=limits,
        device=device,
    )


def _put_in_place(folder: Path, scheme: Scheme, old: Variant | None, write: Callable[[Path], Variant]) -> Variant:
    """Have a variant written, and put its folder and then its record in the place of an old one's."""
    name = RECIPES[scheme].name
    try:
        with replacing(folder / names.variant_folder(scheme)) as partial:
            variant = write(partial)
            _update(folder, name, None)  # killed from here on, a replaced variant is absent, and never damaged
        _update(folder, name, variant)
    except BaseException as stopped:
        if not _put_back(folder, name, old) and isinstance(stopped, KeyboardInterrupt):
            raise KeyboardInterrupt(f"{name} was being put in its place: run the same command again") from None
        raise
    return variant


def _update(folder: Path, name: str, variant: Variant | None) -> None:
    """Change one variant in the manifest, as it is by now."""
    with one_at_a_time(folder):
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

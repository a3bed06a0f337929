"""Another checkpoint's weights into plans that are there, which takes seconds where building takes minutes.

A plan does not leave its bundle: the fine-tuned checkpoint is exported to a bundle of its own, checked for parity as
any other, and gets a copy of the plans with its weights put in. So a plan always computes what its bundle's graphs do.
Two checkpoints of one shape, exported with the same options, have the same graph files byte for byte; that is what
makes their plans interchangeable, and what is compared.
"""

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pointsman.bundle import Flavour, Manifest, PlanRecord, names, read_manifest, verify_files
from pointsman.errors import BundleError, DeviceError, EngineError, OptionsError, OutputExistsError
from pointsman_export.plans.gpu import compute_capability as gpu_here
from pointsman_export.plans.library import Library, load_library
from pointsman_export.plans.recording import forget, record, replacing_plans, usable, write_plan
from pointsman_export.plans.refusals import parsing_refusal, sentence

_BUILD = "build them with `pointsman-export engines"


def refit_plans(
    bundle: str | Path, donor: str | Path, *, flavour: Flavour | None = None, force: bool = False
) -> tuple[PlanRecord, ...]:
    """Give a bundle the refittable plans of another, with its own weights in them.

    Needs the GPU that the plans are for, and the version of the library that built them.

    Args:
        bundle: of the fine-tuned checkpoint; gets the plans.
        donor: a bundle of the same shape, with refittable plans.
        flavour: whose plans; needed where the donor has plans of both.
        force: whether to replace plans that are there and not out of date.

    Returns:
        the records of the plans that were made.

    Raises:
        BundleNotFoundError: one of the bundles is not there.
        BundleError: one is damaged, the shapes differ, or the donor has no plans that fit.
        OptionsError: the donor has plans of both flavours and none was chosen.
        DependencyError: the library is not installed.
        DeviceError: the GPU that the plans are for is not here.
        OutputExistsError: a plan is there and `force` is not given.
        OutputError: a plan cannot be written.
        EngineError: the library refuses.
    """
    target, source = Path(bundle), Path(donor)
    manifest, theirs = read_manifest(target), read_manifest(source)
    plans = _of_one_flavour(_interchangeable(target, manifest, source, theirs), flavour)
    if not force:
        _refuse_to_replace(target, manifest, plans)
    library = load_library(plans[0].flavour)
    plans = _for_this_machine(plans, library)
    verify_files(source, tuple(plan.file for plan in plans))
    for name in {plan.variant for plan in plans}:
        verify_files(target, manifest.variants[name].files)
    made: list[PlanRecord] = []
    with tqdm(total=len(plans), desc="plans", file=sys.stderr, disable=None) as bar:
        for folder, group in groupby(plans, _folder):
            made += _refit_together(source, target, manifest, folder, list(group), library, bar)
    return tuple(made)


def _folder(plan: PlanRecord) -> str:
    return names.plan_folder(plan.flavour, plan.compute_capability, plan.variant)


def _interchangeable(target: Path, manifest: Manifest, source: Path, theirs: Manifest) -> list[PlanRecord]:
    """The donor's plans that this bundle's weights fit into."""
    refittable = [plan for plan in theirs.engines if plan.options.refittable and theirs.is_current(plan)]
    if not refittable:
        raise BundleError(f"{source} has no refittable plans; {_BUILD} --refittable`")
    differences = [*_differences(manifest.architecture, theirs.architecture)]
    differences += _differences(manifest.limits, theirs.limits)
    if differences:
        raise BundleError(f"{target} is of another shape than {source} ({', '.join(differences)}); {_BUILD}`")
    plans = [plan for plan in refittable if plan.variant in manifest.variants]
    if not plans:
        wanted = ", ".join(sorted({plan.variant for plan in refittable}))
        raise BundleError(f"{target} has none of the variants that {source} has refittable plans of: {wanted}")
    for plan in plans:
        graph = manifest.variants[plan.variant].sources(plan.role)[0]
        if graph.sha256 != plan.built_from[0].sha256:
            raise BundleError(
                f"{graph.path} of {target} is not the graph that the plans of {source} were built from; "
                "export both checkpoints with the same version and options"
            )
    return plans


def _differences(ours: Any, theirs: Any) -> Iterable[str]:  # noqa: ANN401 - two records of one class
    for field in fields(ours):
        mine, other = getattr(ours, field.name), getattr(theirs, field.name)
        if mine != other:
            yield f"{field.name} {mine} against {other}"


def _of_one_flavour(plans: Sequence[PlanRecord], flavour: Flavour | None) -> list[PlanRecord]:
    flavours = {plan.flavour for plan in plans}
    if flavour is None and len(flavours) > 1:
        raise OptionsError(
            "there are plans of both tensorrt and tensorrt-rtx; choose one, as with `flavour='tensorrt'`"
        )
    chosen = [plan for plan in plans if flavour in {None, plan.flavour}]
    if not chosen:
        raise BundleError(f"there are no refittable plans of {flavour}; {_BUILD} --flavour {flavour} --refittable`")
    return chosen


def _refuse_to_replace(bundle: Path, manifest: Manifest, plans: Iterable[PlanRecord]) -> None:
    there = {plan.key for plan in usable(bundle, manifest)}
    for plan in plans:
        if plan.key in there:
            raise OutputExistsError(f"{bundle} has plans in {_folder(plan)} already; replace them with `force=True`")


def _for_this_machine(plans: Sequence[PlanRecord], library: Library) -> list[PlanRecord]:
    here = gpu_here()
    wanted = ", ".join(sorted({plan.compute_capability for plan in plans}))
    if here is None:
        raise DeviceError(
            f"plans are refitted on the GPU that they are for, and there is no NVIDIA GPU here; "
            f"refit on one of compute capability {wanted}"
        )
    fitting = [plan for plan in plans if plan.compute_capability == here]
    if not fitting:
        raise DeviceError(f"the GPU here has compute capability {here}, and the plans are for {wanted}; refit on such")
    for plan in fitting:
        if plan.version != library.version:
            raise EngineError(f"{plan.file.path} was built by version {plan.version} and {library} is here; {_BUILD}`")
    return fitting


def _refit_together(
    source: Path,
    target: Path,
    manifest: Manifest,
    folder: str,
    plans: Sequence[PlanRecord],
    library: Library,
    bar: "tqdm[Any]",
) -> list[PlanRecord]:
    """Refit what lies in one folder, then put it in its place and into the manifest."""
    made: list[PlanRecord] = []
    with replacing_plans(target, folder) as partial:
        for plan in plans:
            variant = manifest.variants[plan.variant]
            started = time.perf_counter()
            refitted = _refitted(
                library, source / plan.file.path, target / variant.graph_of_one_position(plan.role).file
            )
            seconds = round(time.perf_counter() - started, 3)
            file = write_plan(refitted, partial, names.plan_name(plan.role), folder)
            made.append(replace(plan, built_from=variant.sources(plan.role), file=file, build_seconds=seconds))
            bar.update()
        forget(target, made)
    record(target, made)
    return made


def _refitted(library: Library, plan: Path, graph: Path) -> memoryview:
    """A plan with the weights of `graph` in it."""
    from polygraphy.backend.trt import get_trt_logger
    from polygraphy.logger import G_LOGGER

    trt = library.trt
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1):
        logger = get_trt_logger()
        runtime = trt.Runtime(logger)
        # A version-compatible plan brings its own runtime along. Its hash was checked against the manifest's.
        runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(plan.read_bytes())
        if engine is None:
            raise EngineError(f"{library} does not load {plan}; {_BUILD}`")
        refitter = trt.Refitter(engine, logger)
        parser = trt.OnnxParserRefitter(refitter, logger)
        if not parser.refit_from_file(str(graph)):
            raise EngineError(sentence(library, graph.name, parsing_refusal(parser)))
        if not refitter.refit_cuda_engine():
            missing = ", ".join(refitter.get_missing_weights()[:3]) or "none is named"
            raise EngineError(f"{library} cannot refit {plan} (weights that it misses: {missing}); {_BUILD}`")
        return memoryview(engine.serialize())

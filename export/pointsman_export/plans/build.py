"""A bundle's portable variants to plans, which appear in the bundle whole or not at all."""

import contextlib
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from pointsman.bundle import (
    ROLES,
    Flavour,
    Manifest,
    PlanOptions,
    PlanRecord,
    Role,
    Variant,
    names,
    read_manifest,
    verify_files,
)
from pointsman.errors import BundleError, DeviceError, OptionsError, OutputExistsError
from pointsman_export.plans.compile import PlanRequest, build_plan
from pointsman_export.plans.gpu import compute_capability as gpu_here
from pointsman_export.plans.library import Library, load_library
from pointsman_export.plans.profiles import profiles_for
from pointsman_export.plans.recording import forget, record, replacing_plans, usable, write_plan

PLAIN = PlanOptions(weight_streaming=False, refittable=False, version_compatible=False)


@dataclass(frozen=True, slots=True)
class Target:
    """What one pair of plans is built for.

    Attributes:
        library: that builds.
        compute_capability: of the GPU.
        variant: name of the variant.
    """

    library: Library
    compute_capability: str
    variant: str

    @property
    def folder(self) -> str:
        """Where the plans go, relative to the bundle."""
        return names.plan_folder(self.library.flavour, self.compute_capability, self.variant)

    def __str__(self) -> str:
        return f"{self.library.flavour} plans of {self.variant} for compute capability {self.compute_capability}"


def build_plans(
    bundle: str | Path,
    *,
    flavour: Flavour | None = None,
    compute_capabilities: Sequence[str] = (),
    variants: Sequence[str] = (),
    max_rows: int = 8,
    options: PlanOptions = PLAIN,
    force: bool = False,
) -> tuple[PlanRecord, ...]:
    """Build plans of the encoder and the decoder step.

    Each pair of plans is in the bundle, and in its manifest, once it is complete: what was built before an error stays.

    Args:
        bundle: its folder.
        flavour: which library; the one that is installed where None.
        compute_capabilities: such as "8.9"; that of the GPU here where there is none.
        variants: names of portable variants; all where there is none.
        max_rows: most inputs of an encoder call, and most rows (inputs x beams) of a decoder step.
        options: what plans shall allow.
        force: whether to replace plans that are there and not out of date.

    Returns:
        the records of what was built.

    Raises:
        BundleNotFoundError: there is no bundle.
        BundleError: it is damaged, or lacks the variant.
        OptionsError: an argument is out of range, or contradicts another.
        DependencyError: the library is not installed.
        DeviceError: the library does not build for such a GPU here.
        OutputExistsError: all plans are there and `force` is not given; where only some are, the others are built.
        OutputError: a plan cannot be written.
        EngineError: the library refuses a graph.
        KeyboardInterrupt: interrupted; the build under way was cancelled.
    """
    folder = Path(bundle)
    manifest = read_manifest(folder)
    chosen = _portable(folder, manifest, variants)
    if max_rows < 1:
        raise OptionsError(f"max_rows is {max_rows}; plans need at least 1")
    library = load_library(flavour)
    _check_options(library, options)
    capabilities = library.targets(compute_capabilities)
    targets = [Target(library, capability, name) for capability in capabilities for name in chosen]
    if not force:
        targets = _not_there(folder, manifest, targets)
    for name in {target.variant for target in targets}:
        verify_files(folder, manifest.variants[name].files)
    built: list[PlanRecord] = []
    with tqdm(total=len(targets) * len(ROLES), desc="plans", file=sys.stderr, disable=None) as bar:
        for target in targets:
            built += _build_pair(folder, manifest, target, max_rows, options, bar)
    return tuple(built)


def _portable(bundle: Path, manifest: Manifest, asked: Sequence[str]) -> list[str]:
    there = [name for name, variant in manifest.variants.items() if variant.form == "portable"]
    if not there:
        raise BundleError(
            f"{bundle} has no portable variant to build from; export it with `pointsman-export bundle --form portable`"
        )
    for name in asked:
        if name not in manifest.variants:
            raise BundleError(f"{bundle} has no variant {name!r}; those to build from are {', '.join(there)}")
        if name not in there:
            raise OptionsError(f"{name} is a form for ONNX Runtime alone; those to build from are {', '.join(there)}")
    return list(dict.fromkeys(asked)) or there


def _check_options(library: Library, options: PlanOptions) -> None:
    if library.flavour == "tensorrt":
        return
    if options.version_compatible:
        raise OptionsError(
            "tensorrt-rtx has no lean runtime, so its plans cannot be version-compatible; "
            "leave that out, or use `flavour='tensorrt'`"
        )
    # Seen with 1.7.1: the builder compiles what moves refitted weights on the GPU.
    if options.refittable and gpu_here() is None:
        raise DeviceError(
            "tensorrt-rtx builds refittable plans only where there is an NVIDIA GPU, and there is none here; "
            "leave that out, or build on the GPU's machine"
        )


def _not_there(bundle: Path, manifest: Manifest, targets: Sequence[Target]) -> list[Target]:
    """What is left to build; says what is not.

    Raises:
        OutputExistsError: nothing is left.
    """
    files = Counter(names.plan_folder(*plan.key[:3]) for plan in usable(bundle, manifest))
    there = [target for target in targets if files[target.folder] == len(ROLES)]
    if len(there) == len(targets):
        raise OutputExistsError(f"{bundle} has {there[0]} already; replace them with `force=True`")
    for target in there:
        tqdm.write(f"note: {bundle} has {target} already, and they stay as they are", file=sys.stderr)
    return [target for target in targets if target not in there]


def _build_pair(
    bundle: Path, manifest: Manifest, target: Target, max_rows: int, options: PlanOptions, bar: "tqdm[NoReturn]"
) -> list[PlanRecord]:
    """Build the plans of both graphs, then put them in their place and into the manifest."""
    built: list[PlanRecord] = []
    with replacing_plans(bundle, target.folder) as partial:
        with _timing_cache(bundle, target, partial) as timing_cache:
            for role in ROLES:
                bar.set_postfix_str(f"{target.variant} {role} for {target.compute_capability}")
                variant = manifest.variants[target.variant]
                graph = variant.graph_of_one_position(role)
                request = PlanRequest(
                    graph=bundle / graph.file,
                    inputs=graph.inputs,
                    profiles=profiles_for(role, manifest.limits, max_rows),
                    options=options,
                    compute_capability=target.compute_capability,
                    timing_cache=timing_cache,
                )
                built.append(_build_one(request, target, role, variant, partial))
                bar.update()
        forget(bundle, built)
    record(bundle, built)
    return built


def _build_one(request: PlanRequest, target: Target, role: Role, variant: Variant, place: Path) -> PlanRecord:
    started = time.perf_counter()
    plan = build_plan(target.library, request)
    seconds = time.perf_counter() - started
    return PlanRecord(
        flavour=target.library.flavour,
        version=target.library.version,
        compute_capability=target.compute_capability,
        variant=target.variant,
        role=role,
        built_from=variant.sources(role),
        profiles=tuple(request.profiles),
        options=request.options,
        file=write_plan(plan, place, names.plan_name(role), target.folder),
        build_seconds=round(seconds, 3),
    )


@contextlib.contextmanager
def _timing_cache(bundle: Path, target: Target, partial: Path) -> Iterator[Path | None]:
    """A working copy of the timing cache for this library and GPU, kept when all has gone well.

    TensorRT-RTX has none: it times kernels where the plan runs.
    """
    if target.library.flavour == "tensorrt-rtx":
        yield None
        return
    kept = (bundle / target.folder).with_name(f"timing-{target.library.version}.cache")
    working = partial / kept.name
    if kept.exists():
        shutil.copyfile(kept, working)
    yield working
    working.with_name(f"{working.name}.lock").unlink(missing_ok=True)  # Polygraphy's
    if working.exists():
        working.replace(kept)

"""From a bundle's records to a backend: which plans, whether they may run here, and loading them."""

from collections.abc import Sequence
from pathlib import Path

from pointsman.backends.gpu.backend import GpuBackend
from pointsman.backends.gpu.cuda import CudaDevice, compute_capability
from pointsman.backends.gpu.device import Device
from pointsman.backends.tensorrt.libraries import library_for
from pointsman.backends.tensorrt.plan import Plan
from pointsman.backends.tensorrt.profiles import PlannedShapes
from pointsman.backends.tensorrt.validity import BUILD, check_file, check_record
from pointsman.bundle import ROLES, Flavour, Manifest, PlanRecord
from pointsman.errors import BundleError, DeviceError, PointsmanError


def pair_for(manifest: Manifest, flavour: Flavour, variant: str, capability: str) -> tuple[PlanRecord, PlanRecord]:
    """A variant's encoder and decoder plan for a GPU, or for another where there are none for it.

    Raises:
        BundleError: the bundle has not both.
    """
    records = {record.key: record for record in manifest.engines}
    for built_for in (capability, *sorted({record.compute_capability for record in manifest.engines})):
        encoder, decoder = (records.get((flavour, built_for, variant, role)) for role in ROLES)
        if encoder and decoder:
            return encoder, decoder
    raise BundleError(f"the bundle has no {flavour} engines of {variant}; {BUILD} --flavour {flavour}`")


def runnable(manifest: Manifest, flavour: Flavour, variants: Sequence[str]) -> str:
    """The first of these variants whose plans run on the first GPU with the library that is installed.

    Raises:
        DeviceError: there is no GPU or library, or all plans are for others.
        BundleError: there are no plans, or they are out of date.
    """
    if not variants:
        raise BundleError(f"the bundle has no {flavour} engines; {BUILD} --flavour {flavour}`")
    capability = compute_capability()
    refusal: PointsmanError | None = None
    for variant in variants:
        try:
            check_pair(manifest, pair_for(manifest, flavour, variant, capability), capability)
        except (BundleError, DeviceError) as error:
            refusal = refusal or error
        else:
            return variant
    assert refusal is not None
    raise refusal


def check_pair(manifest: Manifest, pair: tuple[PlanRecord, PlanRecord], capability: str) -> None:
    """Whether plans may run on a GPU with the library that is installed.

    Raises:
        DeviceError: they are for another GPU or version, or no library is installed.
        BundleError: their variant was written anew.
    """
    for record in pair:
        version = library_for(record).__version__
        check_record(manifest, record, version=version, compute_capability=capability)


def open_plans(
    bundle: Path,
    manifest: Manifest,
    flavour: Flavour,
    variant: str,
    *,
    verify: bool = True,
    device: Device | None = None,
) -> GpuBackend:
    """Check a variant's plans, and load them.

    Args:
        bundle: its folder.
        manifest: its manifest.
        flavour: of the plans.
        variant: its name.
        verify: whether to check the plans' hashes.
        device: where; the first GPU where None.

    Raises:
        DeviceError: they cannot run here.
        BundleError: the bundle lacks them, or they were changed.
    """
    gpu = device or CudaDevice()
    pair = pair_for(manifest, flavour, variant, gpu.compute_capability)
    check_pair(manifest, pair, gpu.compute_capability)
    files = [check_file(bundle, record, verify=verify) for record in pair]
    library, chosen = library_for(pair[0]), manifest.variants[variant]
    graphs = (chosen.graph_of_one_position(role) for role in ROLES)
    encoder, decoder = (
        Plan(gpu, library, record, graph, file) for record, graph, file in zip(pair, graphs, files, strict=True)
    )
    name = f"{library.__name__} {library.__version__}"
    return GpuBackend(gpu, name, chosen, (encoder, decoder), PlannedShapes(*pair))

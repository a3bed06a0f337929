"""Whether a recorded plan may run here; each reason against it says what to rebuild or install."""

from pathlib import Path
from types import ModuleType

from pointsman.backends.gpu.device import Device
from pointsman.bundle import Manifest, PlanRecord, sha256_of
from pointsman.errors import BundleError, DeviceError

BUILD = "build them with `pointsman-export engines"
REBUILD = "build the engines again with `pointsman-export engines`"
_DIAGNOSES = {
    "VERSION_MISMATCH": f"it is of another version; {REBUILD}",
    "UNSUPPORTED_CC": f"it is for another compute capability; {REBUILD}",
    "OLD_CUDA_DRIVER": "the NVIDIA driver is too old for it; install a newer driver",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old for it; install a newer one",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory for it; use a smaller precision",
    "MALFORMED_ENGINE": f"it is damaged; {REBUILD}",
    "CUDA_ERROR": "CUDA does not work here; check the NVIDIA driver",
}


def check_record(manifest: Manifest, record: PlanRecord, *, version: str, compute_capability: str) -> None:
    """Compare a plan's record with what would run it.

    Args:
        manifest: of the bundle.
        record: the plan's.
        version: of the installed library.
        compute_capability: of the GPU.

    Raises:
        BundleError: its variant was written anew.
        DeviceError: it is for another GPU or another version.
    """
    what = f"the {record.flavour} {record.role} engine of {record.variant}"
    if not manifest.is_current(record):
        raise BundleError(f"{what} is out of date, as the variant was written anew; {REBUILD}")
    if record.compute_capability != compute_capability:
        raise DeviceError(
            f"{what} is for compute capability {record.compute_capability}, and this GPU has {compute_capability}; "
            f"{REBUILD.removesuffix('`')} --compute-capability {compute_capability}`"
        )
    if not _runs(record, version):
        newer = f"or install {record.flavour} {record.version}"
        raise DeviceError(
            f"{what} was built by version {record.version}, and {version} is installed; {REBUILD}, {newer}"
        )


def _runs(record: PlanRecord, version: str) -> bool:
    """A plan runs on its own version, or if it was built so, on later ones."""
    if not record.options.version_compatible:
        return version == record.version
    return _numbers(version) >= _numbers(record.version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def check_file(bundle: Path, record: PlanRecord, *, verify: bool) -> Path:
    """Find a plan's file, and check that it is the one that was recorded: plans can hold code that is run.

    Raises:
        BundleError: it is missing or was changed.
    """
    path = bundle / record.file.path
    if not path.is_file():
        raise BundleError(f"{record.file.path} is missing; {REBUILD}")
    if verify and (path.stat().st_size != record.file.bytes or sha256_of(path) != record.file.sha256):
        raise BundleError(f"{record.file.path} was changed (its sha256 differs); {REBUILD}")
    return path


def check_plan(library: ModuleType, runtime: object, header: bytes, device: Device) -> None:
    """Ask a library that knows whether a plan fits this GPU; TensorRT-RTX does, by the plan's first bytes.

    Raises:
        DeviceError: it does not.
    """
    ask = getattr(runtime, "get_engine_validity", None)
    if ask is None:
        return
    validity, diagnostics = ask(header)
    if validity == library.EngineValidity.INVALID:
        raise DeviceError(f"the engine cannot run on {device.name}: {_diagnosis(library, diagnostics)}")


def _diagnosis(library: ModuleType, diagnostics: int) -> str:
    """What the bits of a diagnosis say."""
    members = library.EngineInvalidityDiagnostics.__members__
    said = [_DIAGNOSES[name] for name, bit in members.items() if name in _DIAGNOSES and diagnostics & int(bit)]
    return "; ".join(said) or f"the library does not say why; {REBUILD}"

"""Choosing device, variant and engine; what `auto` means is decided here and nowhere else."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from pointsman.backends.base import Backend
from pointsman.errors import BundleError, DeviceError, OptionsError
from pointsman.manifest import Manifest, Variant

Device = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[Device, ...] = ("auto", "cpu", "cuda")

# First match wins. On the CPU, float16 is emulated and bfloat16 does not run at all.
_PREFERRED = {
    "cpu": ("fused-float32", "portable-float32", "fused-float16", "portable-float16"),
    "cuda": (
        "fused-bfloat16",
        "portable-bfloat16",
        "fused-float16",
        "portable-float16",
        "fused-float32",
        "portable-float32",
    ),
}


@dataclass(frozen=True, slots=True)
class Choice:
    """What runs, and why.

    Attributes:
        variant: name of the variant.
        device: `cpu` or `cuda`.
        reason: a sentence for people.
    """

    variant: str
    device: Literal["cpu", "cuda"]
    reason: str


def choose(manifest: Manifest, *, device: str, variant: str) -> Choice:
    """Settle `auto`.

    Args:
        manifest: of the bundle.
        device: `auto` (CUDA where the installed ONNX Runtime has it, else the CPU), `cpu` or `cuda`.
        variant: `auto` (the fastest of the bundle that runs on the device) or a name.

    Raises:
        OptionsError: the device is unknown.
        BundleError: the bundle has no such variant, or none that runs on the device.
        DeviceError: the device is not available to the installed ONNX Runtime.
    """
    if device not in DEVICES:
        raise OptionsError(f"unknown device {device!r}; use {', '.join(DEVICES)}")
    found = _engine().cuda_is_available()
    if device == "cuda" and not found:
        raise DeviceError("the installed ONNX Runtime has no CUDA; install pointsman[gpu], or use device 'cpu'")
    where: Literal["cpu", "cuda"] = "cuda" if device == "cuda" or (device == "auto" and found) else "cpu"
    why = f"device {where} was asked for" if device == where else f"ONNX Runtime has {'CUDA' if found else 'no CUDA'}"
    if variant != "auto":
        _check(manifest, variant, where)
        return Choice(variant, where, f"{why}; variant {variant} was asked for")
    for name in _PREFERRED[where]:
        if name in manifest.variants:
            return Choice(name, where, f"{why}; {name} is the fastest variant here on {where}")
    raise BundleError(
        f"no variant of this bundle runs on {where} (it has {', '.join(manifest.variants)}); "
        "export again with --dtype float32"
    )


def _check(manifest: Manifest, variant: str, device: str) -> None:
    if variant not in manifest.variants:
        raise BundleError(f"the bundle has no variant {variant!r}; it has {', '.join(manifest.variants)}")
    if device == "cpu" and manifest.variants[variant].precision == "bfloat16":
        raise DeviceError(
            f"ONNX Runtime does not run bfloat16 on the CPU; use another variant than {variant}, or device 'cuda'"
        )


def open_backend(bundle: Path, variant: Variant, *, device: Literal["cpu", "cuda"], threads: int | None) -> Backend:
    """Load a variant's graphs into ONNX Runtime.

    Args:
        bundle: its folder.
        variant: which.
        device: where.
        threads: CPU threads; the engine's default where None.
    """
    backend: Backend = _engine().OnnxRuntimeBackend(bundle, variant, device=device, threads=threads)
    return backend


def _engine() -> ModuleType:
    """The module that imports ONNX Runtime, which is one of two packages that people choose between.

    Raises:
        DeviceError: neither is installed.
    """
    try:
        return importlib.import_module("pointsman.backends.onnxruntime")
    except ModuleNotFoundError as error:
        raise DeviceError("ONNX Runtime is not installed; install pointsman[cpu] or pointsman[gpu]") from error

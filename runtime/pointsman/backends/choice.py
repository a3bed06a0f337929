"""Choosing device, variant and engine; what `auto` means is decided here and nowhere else."""

import importlib
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from pointsman.backends.base import Backend
from pointsman.backends.tensorrt import opening
from pointsman.bundle import Flavour, Manifest, Variant, verified
from pointsman.errors import BundleError, DeviceError, OptionsError, PointsmanError
from pointsman.wording import install, no_variant

Device = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[Device, ...] = ("auto", "cpu", "cuda")
Engine = Literal["onnxruntime", "tensorrt", "tensorrt-rtx"]
AnyEngine = Literal["auto", "onnxruntime", "tensorrt", "tensorrt-rtx"]
ENGINES: tuple[AnyEngine, ...] = ("auto", "onnxruntime", "tensorrt", "tensorrt-rtx")
_FLAVOURS: tuple[Flavour, ...] = ("tensorrt", "tensorrt-rtx")
_MOST_THREADS = 1024

# First match wins. On the CPU, float16 is emulated and bfloat16 does not run at all. On CUDA the portable form is
# faster: the fused one branches on every expert, and each branch waits for the device.
_PREFERRED = {
    "cpu": ("fused-float32", "portable-float32", "fused-float16", "portable-float16"),
    "cuda": (
        "portable-bfloat16",
        "fused-bfloat16",
        "portable-float16",
        "fused-float16",
        "portable-float32",
        "fused-float32",
    ),
}


@dataclass(frozen=True, slots=True)
class Choice:
    """What runs, and why.

    Attributes:
        variant: name of the variant.
        device: `cpu` or `cuda`.
        reason: a sentence for people.
        engine: the inference engine.
    """

    variant: str
    device: Literal["cpu", "cuda"]
    reason: str
    engine: Engine = "onnxruntime"


def choose(manifest: Manifest, *, device: Device, variant: str, engine: AnyEngine = "auto") -> Choice:
    """Settle `auto`.

    Args:
        manifest: of the bundle.
        device: `auto` (CUDA where an engine has it, else the CPU), `cpu` or `cuda`.
        variant: `auto` (the fastest of the bundle that runs on the device without quantization; a quantized one where
            it is the only one) or a name.
        engine: `auto` (TensorRT where the bundle has plans that run here, else ONNX Runtime) or one of `ENGINES`.

    Raises:
        OptionsError: the device or engine is unknown, or they contradict each other.
        BundleError: the bundle has no such variant or plans, or none that runs on the device.
        DeviceError: the device is not available to the engine.
    """
    _check_names(device, engine)
    for flavour in _FLAVOURS:
        if engine == flavour:
            return _with_plans(manifest, flavour, variant)
    refusals: list[str] = []
    for flavour in _flavours(manifest) if engine == "auto" and device != "cpu" else ():
        try:
            return _with_plans(manifest, flavour, variant)
        except PointsmanError as error:
            refusals.append(str(error))
    return _with_graphs(manifest, device, variant, refusals)


def _check_names(device: str, engine: str) -> None:
    if device not in DEVICES:
        raise OptionsError(f"unknown device {device!r}; use {', '.join(DEVICES)}")
    if engine not in ENGINES:
        raise OptionsError(f"unknown engine {engine!r}; use {', '.join(ENGINES)}")
    if device == "cpu" and engine in _FLAVOURS:
        raise OptionsError(f"{engine} does not run on the CPU; use device 'cuda' or engine 'onnxruntime'")


def _flavours(manifest: Manifest) -> list[Flavour]:
    """Those that the bundle has plans of."""
    return [flavour for flavour in _FLAVOURS if any(plan.flavour == flavour for plan in manifest.engines)]


def _with_plans(manifest: Manifest, flavour: Flavour, variant: str) -> Choice:
    """A variant whose plans run on the GPU that is here."""
    if variant != "auto":
        _check_variant(manifest, variant)
    candidates = _in_floats(manifest, flavour) if variant == "auto" else [variant]
    name = opening.runnable(manifest, flavour, candidates)
    why = f"{name} is the fastest with {flavour} engines for this GPU and without quantization"
    if variant != "auto":
        why = f"variant {name} was asked for, and has {flavour} engines for this GPU"
    return Choice(name, "cuda", why, flavour)


def _in_floats(manifest: Manifest, flavour: Flavour) -> list[str]:
    """Variants in floats that have plans, the fastest first; others cost accuracy, which is for users to choose."""
    built = {plan.variant for plan in manifest.engines if plan.flavour == flavour}
    preferred = [name for name in _PREFERRED["cuda"] if name in built]
    if built and not preferred:
        raise BundleError(
            f"the bundle's {flavour} engines are of {', '.join(sorted(built))}; "
            f"ask for them, as with `variant='{min(built)}'`"
        )
    return preferred


def _with_graphs(manifest: Manifest, device: str, variant: str, refusals: list[str]) -> Choice:
    """A variant for ONNX Runtime; `refusals` say why not TensorRT, where the bundle has plans."""
    asked = variant if variant != "auto" else _only_quantized(manifest)
    if asked is not None:
        _check_variant(manifest, asked)
    where, why = _place(device, None if asked is None else manifest.variants[asked], refusals)
    if asked is not None:
        _check(manifest, asked, where)
        fact = "is all that the bundle has" if variant == "auto" else "was asked for"
        return Choice(asked, where, f"{why}; {asked if variant == 'auto' else f'variant {asked}'} {fact}")
    for name in _PREFERRED[where]:
        if name in manifest.variants:
            return Choice(name, where, f"{why}; {name} is the fastest here on {where} without quantization")
    remedy = "export it with `pointsman-export bundle --dtype float32`"
    if quantized := _quantized(manifest):
        remedy = f"ask for one that is quantized, as with `variant='{quantized[0]}'`"
    raise BundleError(
        f"no float variant of this bundle runs on {where} (it has {', '.join(manifest.variants)}); {remedy}"
    )


def _place(device: str, variant: Variant | None, refusals: list[str]) -> tuple[Literal["cpu", "cuda"], str]:
    """Where ONNX Runtime runs a variant, or what there is, and why."""
    missing: str | None = _onnxruntime().why_not_cuda()
    if device == "cuda" and missing:
        raise DeviceError("; ".join([missing, *refusals]))
    if device == "auto" and not missing and variant is not None and _needs_cpu(variant):
        return "cpu", "; ".join(["its integers are multiplied on the CPU alone", *refusals])
    where: Literal["cpu", "cuda"] = "cuda" if device == "cuda" or (device == "auto" and not missing) else "cpu"
    why = f"device {where} was asked for"
    if device == "auto":
        why = missing.partition(";")[0] if missing else "ONNX Runtime has CUDA"
    return where, "; ".join([why, *refusals])


def _quantized(manifest: Manifest) -> list[str]:
    return [name for name, variant in manifest.variants.items() if variant.quantization]


def _only_quantized(manifest: Manifest) -> str | None:
    """The bundle's variant, where there is but one and it is quantized."""
    quantized = _quantized(manifest)
    return quantized[0] if len(quantized) == len(manifest.variants) == 1 else None


def _check_variant(manifest: Manifest, variant: str) -> None:
    if variant not in manifest.variants:
        raise BundleError(no_variant(variant, manifest.variants))


def _needs_cpu(variant: Variant) -> bool:
    """Whether a variant's products of integers have kernels on the CPU alone."""
    return variant.precision in ("int8", "int4")


def _check(manifest: Manifest, variant: str, device: str) -> None:
    _check_variant(manifest, variant)
    if device == "cuda" and _needs_cpu(manifest.variants[variant]):
        raise DeviceError(
            f"ONNX Runtime multiplies the integers of {variant} on the CPU alone; "
            "use device 'cpu', or a float variant on the GPU"
        )
    if device == "cpu" and manifest.variants[variant].precision == "bfloat16":
        raise DeviceError(
            f"ONNX Runtime does not run bfloat16 on the CPU; use another variant than {variant}, or device 'cuda'"
        )


def open_backend(
    bundle: Path,
    manifest: Manifest,
    choice: Choice,
    *,
    threads: int | None,
    verify: bool,
    routing: bool = False,
    max_memory: int | None = None,
) -> Backend:
    """Load what was chosen.

    Args:
        bundle: its folder.
        manifest: its manifest.
        choice: what `choose` said.
        threads: CPU threads; one for each core that the process may use where None.
        verify: whether to check the hashes of what is loaded first.
        routing: whether it shall be a `RoutingBackend`.
        max_memory: bytes of the process's resident memory that experts may fill; None loads them all.

    Raises:
        OptionsError: `threads` is out of range, or what was chosen shows no routing or has no `max_memory`.
        BundleError: a file is missing or was changed, or the engine refuses it.
        DeviceError: the device cannot be used.
    """
    _check_threads(threads)
    variant = manifest.variants[choice.variant]
    if routing and (choice.engine, choice.device) != ("onnxruntime", "cpu"):
        raise OptionsError("only ONNX Runtime on the CPU shows routing; use device 'cpu' and engine 'onnxruntime'")
    _check_max_memory(max_memory, choice, variant)
    if choice.engine != "onnxruntime":
        return opening.open_plans(bundle, manifest, choice.engine, choice.variant, verify=verify)
    engine = _onnxruntime()
    backend: Backend
    with verified(bundle, variant.files) if verify else nullcontext():
        if choice.device == "cuda":
            backend = engine.open_on_cuda(bundle, variant)
        elif routing:
            backend = engine.RoutedBackend(
                bundle, variant, manifest.architecture, threads=threads, max_memory=max_memory
            )
        else:
            backend = engine.OnnxRuntimeBackend(bundle, variant, threads=threads, max_memory=max_memory)
    return backend


def _check_threads(threads: int | None) -> None:
    is_whole = isinstance(threads, int) and not isinstance(threads, bool)
    if threads is not None and not (is_whole and 1 <= threads <= _MOST_THREADS):
        raise OptionsError(f"threads is {threads!r}; use a whole number from 1 to {_MOST_THREADS}")


def _check_max_memory(max_memory: int | None, choice: Choice, variant: Variant) -> None:
    is_whole = isinstance(max_memory, int) and not isinstance(max_memory, bool)
    if max_memory is None:
        return
    if not (is_whole and max_memory >= 1):
        raise OptionsError(f"max_memory is {max_memory!r}; use a whole number of bytes")
    if choice.device != "cpu":
        raise OptionsError("max_memory is for the CPU; use device 'cpu', or leave it out")
    if (variant.form, variant.precision) != ("fused", "int8"):
        raise OptionsError(
            f"max_memory is for the variant fused-int8, whose experts need not be laid out anew in memory, and not for "
            f"{choice.variant}; ask for fused-int8, or leave it out"
        )


def _onnxruntime() -> ModuleType:
    """The module that imports ONNX Runtime, which is one of two packages that people choose between.

    Raises:
        DeviceError: neither is installed, or what is cannot be imported.
    """
    try:
        return importlib.import_module("pointsman.backends.onnxruntime")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime":
            raise DeviceError(f"ONNX Runtime is not installed; {install('cpu', 'gpu')}") from error
        reason = " ".join(str(error).split())
        raise DeviceError(f"ONNX Runtime cannot be imported here ({reason}); install it again") from error

"""Both graphs of an integer variant loaded with their experts mapped."""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from pointsman.backends.onnxruntime.models.mapped_experts import with_mapped_experts
from pointsman.backends.onnxruntime.weights.residency import NewMappings, ResidentWeights, resident_bytes
from pointsman.backends.onnxruntime.weights.saturation import products_saturate
from pointsman.bundle import Variant, names
from pointsman.errors import BundleError, DeviceError


def with_experts_mapped(
    bundle: Path, variant: Variant, load: Callable[..., Iterable[Any]], most_bytes: int
) -> tuple[Any, Any, ResidentWeights]:
    """Load a variant.

    Args:
        bundle: its folder.
        variant: of int8 in the fused form.
        load: gives both sessions, of `models`: what takes the place of the graphs' files.
        most_bytes: of the process's resident memory.

    Returns:
        Encoder, decoder, and the experts' weights, to be kept within the limit.

    Raises:
        BundleError: the engine refuses a graph, or it has no experts that could be mapped.
        DeviceError: it is not possible on this machine, or what must stay resident has more than the limit.
    """
    mappings = NewMappings(bundle / names.weights_file(variant.precision))
    graphs, saturates = [bundle / graph.file for graph in (variant.encoder, variant.decoder)], products_saturate()
    models, stored = zip(
        *(with_mapped_experts(graph.read_bytes(), saturates=saturates) for graph in graphs), strict=True
    )
    if not any(stored):
        raise BundleError(
            "no expert of the variant can stay in its file: it has none, or was quantized by an earlier version; "
            "quantize it again (`pointsman-calib quantize --force`), or leave max_memory out"
        )
    with mappings:
        encoder, decoder = load(models=models)
    weights = ResidentWeights(_addresses(mappings, [*stored[0], *stored[1]]), most_bytes)
    if (resident := resident_bytes()) > most_bytes:
        raise DeviceError(
            f"max_memory is {most_bytes / 1e6:,.0f} MB, and what must stay takes {resident / 1e6:,.0f} MB before the "
            "first text; give more"
        )
    return encoder, decoder, weights


def loaded_once(bundle: Path, variant: Variant, load: Callable[..., Iterable[Any]]) -> tuple[Any, Any]:
    """Load a variant, and give back what of its file was read.

    ONNX Runtime keeps weights of branches mapped that it has laid out anew: a quantized variant's experts would be
    in memory twice. On other systems than Linux they are.

    Args:
        bundle: its folder.
        variant: which.
        load: as of `with_experts_mapped`.

    Returns:
        Encoder and decoder.

    Raises:
        BundleError: the engine refuses a graph.
    """
    files = (None, None)
    if sys.platform != "linux" or variant.form != "fused" or variant.precision not in ("int8", "int4"):
        encoder, decoder = load(models=files)
        return encoder, decoder
    mappings = NewMappings(bundle / names.weights_file(variant.precision))
    with mappings:
        encoder, decoder = load(models=files)
    mappings.give_back()
    return encoder, decoder


def _addresses(mappings: NewMappings, stored: Sequence[Any]) -> list[tuple[int, int]]:
    found = mappings.addresses(stored)
    if len(found) < len(stored):
        raise DeviceError(
            f"ONNX Runtime {onnxruntime.__version__} maps {len(found)} of the {len(stored)} weights of experts here; "
            "leave max_memory out"
        )
    return found

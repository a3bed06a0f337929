"""The demo model calibrated on the CPU and on another device: whether the same is chosen, and what differs most.

Sums are taken in another order on a GPU, so last bits differ, and an input's code, a weight or a label may fall on the
other side of a tie; so may a layer in the ranking, and what is kept for the sake of limits. So losses, the share of the
same codes and ranges are held to limits, and choices are shown. Only int8 ranks layers here; others have no limits.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

import measurements
from contestants.job import Device
from pointsman.bundle import Quantization, Scheme, names
from pointsman_calib import Corpus, CoverageRule, Limits, quantize
from pointsman_calib.graphs.external_data import in_file_order, read_tensor
from pointsman_calib.graphs.runs import graph_files
from pointsman_calib.ranges.corpus_pass import write_ranges
from pointsman_calib.ranges.table import RangeTable

SCHEMES: Final[tuple[Scheme, ...]] = ("int8", "int4", "int8-qdq")
DOCUMENTS: Final = 6
RANKED: Final[Scheme] = "int8"
NO_LIMITS: Final = Limits(max_loss_increase=1000, min_agreement=0)
MOST_OF_LOSS: Final = 1e-4  # that the float variant's loss may differ by, as a part of it
MOST_OF_INCREASE: Final = 2e-3  # that what rounding to nearest adds to it may differ by, likewise
LEAST_CODES: Final = 98.0  # percent of all that have to be the same
MOST_OF_RANGES: Final = 1e-3  # that a largest magnitude may differ by, as a part of it


@dataclass(frozen=True, slots=True)
class Made:
    """A quantized variant.

    Attributes:
        quantization: how it was made.
        arrays: its weights, by name.
        seconds: that it took.
    """

    quantization: Quantization
    arrays: Mapping[str, NDArray[Any]]
    seconds: float


def agreement(bundle: Path, corpus: Corpus, device: Device) -> dict[str, dict[str, Any]]:
    """Calibrate a bundle in every scheme on the CPU and on a device, and compare what comes of it."""
    devices: tuple[Device, Device] = ("cpu", device)
    found: dict[str, dict[str, Any]] = {}
    for scheme in SCHEMES:
        found[scheme] = compared(*(made(bundle, corpus, scheme, each) for each in devices))
        print(f"{scheme}: {json.dumps(found[scheme])}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        one, other = (write_ranges(bundle, corpus, Path(folder) / names.RANGES, device=each) for each in devices)
    largest = max(_differences(one, other))
    return {**found, "ranges": {"largest": largest, "agrees": largest < MOST_OF_RANGES}}


def made(bundle: Path, corpus: Corpus, scheme: Scheme, device: Device) -> Made:
    """Calibrate a bundle in a scheme; the variant stays in it until the next is made."""
    began = time.monotonic()
    rule, limits = CoverageRule(most_thin=1), None if scheme == RANKED else NO_LIMITS
    variant = quantize(bundle, scheme, corpus=corpus, limits=limits, coverage=rule, force=True, device=device)
    seconds = time.monotonic() - began
    assert variant.quantization is not None
    models = [ir.load(path) for path in graph_files(bundle, variant).values()]
    return Made(variant.quantization, {name: read_tensor(each) for name, each in in_file_order(models)}, seconds)


def compared(ours: Made, theirs: Made) -> dict[str, Any]:
    """Of the CPU's and another's: which choices are the same, and what differs most."""
    one, other = ours.quantization.sensitivity, theirs.quantization.sensitivity
    assert one is not None
    assert other is not None
    choices = {
        "float_weights": one.float_weights == other.float_weights,
        "fine_inputs": one.fine_inputs == other.fine_inputs,
        "kept": ours.quantization.kept == theirs.quantization.kept,
        "thin_experts": ours.quantization.coverage == theirs.quantization.coverage,
    }
    same, scales = _same_codes(ours, theirs), max(_scale_differences(ours, theirs))
    loss = abs(other.loss / one.loss - 1)
    increase = abs(other.nearest.loss_increase - one.nearest.loss_increase)
    costs = max((abs(other.costs.get(layer, 0) - cost) for layer, cost in one.costs.items()), default=0)
    return {
        "seconds": [round(ours.seconds, 1), round(theirs.seconds, 1)],
        "choices": choices,
        "same_ranking": list(one.costs) == list(other.costs),
        "costs": costs / max((*one.costs.values(), 1e-30)),
        "loss": loss,
        "nearest_loss_increase": increase,
        "labels_agreeing": [[each.nearest.agreement, each.reached.agreement] for each in (one, other)],
        "same_codes_percent": same,
        "scales": scales,
        "agrees": choices["thin_experts"]
        and loss < MOST_OF_LOSS
        and increase < MOST_OF_INCREASE
        and same >= LEAST_CODES,
    }


def _same_codes(ours: Made, theirs: Made) -> float:
    """Percent, of the weights that both have."""
    shared = [name for name, array in ours.arrays.items() if array.dtype.itemsize == 1 and name in theirs.arrays]
    same = sum(np.count_nonzero(ours.arrays[name] == theirs.arrays[name]) for name in shared)
    return 100 * float(same) / sum(ours.arrays[name].size for name in shared)


def _scale_differences(ours: Made, theirs: Made) -> Iterator[float]:
    """As a part of each scale; of other floats, which are copied, it is 0."""
    for name, array in ours.arrays.items():
        if array.dtype == np.float32 and name in theirs.arrays:
            yield float((np.abs(array - theirs.arrays[name]) / np.maximum(np.abs(array), 1e-30)).max())


def _differences(ours: RangeTable, theirs: RangeTable) -> Iterator[float]:
    """Of where each tensor's magnitudes end, as a part of it."""
    for name, one in ours.tensors.items():
        other = theirs.tensors[name]
        if one.amax is not None and other.amax is not None:
            yield abs(other.amax.minmax - one.amax.minmax) / max(one.amax.minmax, 1e-30)


def print_agreement(found: Mapping[str, Mapping[str, Any]]) -> bool:
    """Print what was found, and return whether all agree."""
    header = [
        "scheme",
        "s, CPU",
        "s, GPU",
        "other choices",
        "ranking",
        "costs",
        "loss",
        "increase",
        "codes %",
        "scales",
    ]
    rows = [
        [
            scheme,
            *map(str, each["seconds"]),
            ", ".join(name for name, same in each["choices"].items() if not same) or "none",
            "same" if each["same_ranking"] else "other",
            f"{each['costs']:.1e}",
            f"{each['loss']:.1e}",
            f"{each['nearest_loss_increase']:.1e}",
            f"{each['same_codes_percent']:.3f}",
            f"{each['scales']:.1e}",
        ]
        for scheme, each in found.items()
        if scheme != "ranges"
    ]
    measurements.print_table(header, rows)
    print(f"largest magnitudes differ by {found['ranges']['largest']:.1e} of them at most")
    agreed = all(each["agrees"] for each in found.values())
    print("the device and the CPU agree" if agreed else "THE DEVICE AND THE CPU DO NOT AGREE")
    return agreed

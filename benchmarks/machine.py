"""The machine and the versions that a measurement was made with, in words."""

import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PACKAGES = (
    "pointsman",
    "onnxruntime",
    "onnxruntime-gpu",
    "numpy",
    "torch",
    "transformers",
    "ctranslate2",
    "onnx",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "cuda-bindings",
    "nvidia-cuda-nvrtc",
)
# Those that matrix products are chosen by, as /proc/cpuinfo spells them on x86 and on ARM.
_INSTRUCTION_SETS = (
    "avx",
    "avx2",
    "fma",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)
# Of each row the first that a processor has says which products it runs.
_RANKED = (
    ("avx512_vnni", "avx_vnni", "avx512f", "avx2"),
    ("amx_int8",),
    ("i8mm", "asimddp", "asimd"),
    ("sve",),
)
_VENDORS = ("amd", "intel")


def describe() -> dict[str, Any]:
    """CPU model, cores, instruction sets, memory, system, and how busy it is just now."""
    cpu, flags = _cpu()
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "instruction_sets": [name for name in _INSTRUCTION_SETS if name in flags],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "load_average": round(os.getloadavg()[0], 2),
    }


def short_name(described: Mapping[str, Any]) -> str:
    """The processor of what `describe` said, without what all of its kind are called."""
    words = re.sub(r"\((R|TM)\)|@.*", " ", described["cpu"]).split()
    return " ".join(word for word in words if word not in ("CPU", "Processor"))


def file_name(described: Mapping[str, Any]) -> str:
    """The processor and the sets that its products are chosen by, as a part of a file's name."""
    found = described["instruction_sets"]
    sets = [next((name for name in ranked if name in found), "").removesuffix("_int8") for ranked in _RANKED]
    words = [word for word in short_name(described).lower().split() if word not in _VENDORS]
    return "-".join([*(re.sub(r"[^a-z0-9]+", "-", word).strip("-") for word in words), *filter(None, sets)])


def versions() -> dict[str, str]:
    """Of the packages that take part and are installed."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu() -> tuple[str, set[str]]:
    """Name and flags of the first core."""
    path = Path("/proc/cpuinfo")
    fields: dict[str, str] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags") or fields.get("Features") or ""
    return fields.get("model name") or platform.processor() or platform.machine(), set(flags.split())

"""The libraries that build plans: TensorRT and TensorRT-RTX, imported when one is asked for.

Polygraphy serves both, but one in a process: it decides which when it is imported, by an environment variable.
"""

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import get_args

from pointsman.backends.nvidia import INSTALL, INSTALL_EITHER
from pointsman.bundle import Flavour
from pointsman.errors import DependencyError, DeviceError, OptionsError
from pointsman_export.plans.gpu import compute_capability

MODULES: dict[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_CHOICE = "POLYGRAPHY_USE_TENSORRT_RTX"


@dataclass(frozen=True, slots=True)
class Library:
    """One of the two, imported.

    Attributes:
        flavour: which.
        trt: its Python module; both have the same classes.
    """

    flavour: Flavour
    trt: ModuleType

    @property
    def version(self) -> str:
        """As it reports it."""
        return str(self.trt.__version__)

    def __str__(self) -> str:
        return f"{self.flavour} {self.version}"

    def targets(self, asked: Sequence[str]) -> tuple[str, ...]:
        """Compute capabilities to build for: those asked for, or that of the GPU here.

        Raises:
            OptionsError: one is not a compute capability, or none is named where there is no GPU.
            DeviceError: the library does not build for it here.
        """
        for text in asked:
            if not re.fullmatch(r"[1-9][0-9]*\.[0-9]", text):
                raise OptionsError(f"{text!r} is not a compute capability; write it as 8.9")
        if self.flavour == "tensorrt":
            return _of_this_gpu(asked)
        chosen = tuple(dict.fromkeys(asked)) or _here()
        known = self._ahead_of_time()
        unknown = [text for text in chosen if text not in known]
        if unknown:
            raise DeviceError(
                f"{self} does not build for compute capability {', '.join(unknown)}; it builds for {', '.join(known)}"
            )
        return chosen

    def _ahead_of_time(self) -> list[str]:
        """What TensorRT-RTX builds for, whichever GPU is here: its enumeration has members such as SM89 and SM120."""
        numbers = [name.removeprefix("SM") for name in self.trt.ComputeCapability.__members__ if name.startswith("SM")]
        return [f"{number[:-1]}.{number[-1]}" for number in sorted(numbers, key=int)]


def _here() -> tuple[str]:
    here = compute_capability()
    if here is None:
        raise OptionsError(
            "there is no NVIDIA GPU here to build for; name compute capabilities, as in `compute_capabilities=['8.9']`"
        )
    return (here,)


def _of_this_gpu(asked: Sequence[str]) -> tuple[str]:
    here = compute_capability()
    if here is None:
        raise DeviceError(
            "tensorrt builds plans on the GPU that they are for, and there is no NVIDIA GPU here; "
            "build there, or ahead of time with `flavour='tensorrt-rtx'`"
        )
    if set(asked) - {here}:
        raise DeviceError(
            f"tensorrt builds for the GPU that is here, which has compute capability {here}, and not for "
            f"{', '.join(asked)}; build on such a GPU, or ahead of time with `flavour='tensorrt-rtx'`"
        )
    return (here,)


def load_library(flavour: Flavour | None) -> Library:
    """Import the library of a flavour, or the one that is installed.

    Raises:
        DependencyError: it is not installed, or cannot be loaded.
        OptionsError: both are installed and none was asked for.
        DeviceError: Polygraphy serves the other one in this process.
    """
    chosen = flavour or _the_installed()
    for name in (MODULES[chosen], "polygraphy"):
        if importlib.util.find_spec(name) is None:
            raise DependencyError(f"{name} is not installed; {INSTALL[chosen]}")
    _tell_polygraphy(chosen)
    try:
        return Library(chosen, importlib.import_module(MODULES[chosen]))
    except (ImportError, OSError) as error:
        raise DependencyError(f"{chosen} cannot be loaded ({error}); remove it, and {INSTALL[chosen]}") from error


def _the_installed() -> Flavour:
    flavours = [flavour for flavour in get_args(Flavour) if importlib.util.find_spec(MODULES[flavour])]
    if not flavours:
        raise DependencyError(f"neither tensorrt nor tensorrt-rtx is installed; {INSTALL_EITHER}")
    if len(flavours) > 1:
        raise OptionsError("both tensorrt and tensorrt-rtx are installed; choose one, as with `flavour='tensorrt'`")
    chosen: Flavour = flavours[0]
    return chosen


def _tell_polygraphy(flavour: Flavour) -> None:
    rtx = flavour == "tensorrt-rtx"
    config = sys.modules.get("polygraphy.config")
    if config is None:
        os.environ[_CHOICE] = "1" if rtx else "0"
    elif rtx != config.USE_TENSORRT_RTX:
        raise DeviceError(f"Polygraphy serves another library in this process; use {flavour} in a process of its own")

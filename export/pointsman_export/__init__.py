"""Export Switch Transformers checkpoints to ONNX bundles, and bundles to TensorRT plans and models of Triton.

`export_bundle` needs torch and ONNX, `build_plans` and `refit_plans` a TensorRT library, `export_triton` neither: what
a function needs is imported when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING

from pointsman.backends.nvidia import INSTALL_EITHER
from pointsman.errors import DependencyError
from pointsman.wording import install

if TYPE_CHECKING:
    from pointsman_export.bundle import export_bundle
    from pointsman_export.plans.build import build_plans
    from pointsman_export.plans.refit import refit_plans
    from pointsman_export.triton import export_triton

__all__ = ["build_plans", "export_bundle", "export_triton", "refit_plans"]

# Where each is, and what to do where a package that it needs is not installed.
_HOMES = {
    "export_bundle": ("pointsman_export.bundle", install("export")),
    "build_plans": ("pointsman_export.plans.build", INSTALL_EITHER),
    "refit_plans": ("pointsman_export.plans.refit", INSTALL_EITHER),
    "export_triton": ("pointsman_export.triton", "run pip install . in a checkout of Pointsman"),
}


def __getattr__(name: str) -> object:
    """Import a public function.

    Raises:
        DependencyError: a package that it needs is not installed.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, advice = _HOMES[name]
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise DependencyError(f"{error.name} is not installed; {advice}") from error

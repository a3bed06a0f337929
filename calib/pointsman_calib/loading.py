"""Modules that import ONNX, an engine or Ray: a machine that only serves does not have all of it."""

import importlib
from types import ModuleType

from pointsman.errors import DependencyError
from pointsman.wording import install


def loaded(module: str, extra: str = "calib") -> ModuleType:
    """Import a module, of whose needs an extra has all.

    Raises:
        DependencyError: something that it needs is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise DependencyError(f"{error.name} is not installed; {install(extra)}") from error

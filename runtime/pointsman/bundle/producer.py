"""What made a file: the versions that bundles and tables record."""

import contextlib
import importlib.metadata
from collections.abc import Iterable


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Package name to version, of those that are installed (ONNX Runtime goes by two names)."""
    versions = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions

"""What TensorRT-RTX compiles for a GPU when a plan runs, kept from one process to the next.

A TensorRT-RTX plan holds kernels that are finished on the machine that runs them: fallback kernels for all shapes at
once, and faster ones for each shape in use, in the background. Its runtime cache holds the result.
"""

import contextlib
import os
import tempfile
import weakref
from pathlib import Path
from typing import Any


class KernelCache:
    """The runtime cache of one plan; it is written when this object goes, or the process ends."""

    def __init__(self, config: Any, plan_sha256: str) -> None:  # noqa: ANN401 - untyped library
        """Give a runtime configuration its cache.

        Args:
            config: of the plan.
            plan_sha256: names the file.
        """
        file = cache_folder() / f"{plan_sha256}.kernels"
        cache = config.create_runtime_cache()
        before = file.read_bytes() if file.is_file() else b""
        if before:
            cache.deserialize(before)  # another GPU's or version's is refused, and replaced at the end
        config.set_runtime_cache(cache)
        weakref.finalize(self, _save, cache, file, before)


def cache_folder() -> Path:
    """Where runtime caches are kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pointsman"


def _save(cache: Any, file: Path, before: bytes) -> None:  # noqa: ANN401 - untyped library
    """Write the cache if it has grown. Without it the next start is slower, and nothing else: failing is no error."""
    content = bytes(cache.serialize())
    if content == before:
        return
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as partial:
            partial.write(content)
        Path(partial.name).replace(file)

"""What TensorRT-RTX compiles for a GPU when a plan runs, kept from one process to the next.

A TensorRT-RTX plan holds kernels that are finished on the machine that runs them: fallback kernels for all shapes at
once, and faster ones for each shape in use, in the background. Its runtime cache holds the result.
"""

import contextlib
import os
import tempfile
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any


class KernelCache:
    """The runtime cache of one plan. TensorRT proper has none: its plans are complete."""

    def __init__(self, library: ModuleType, engine: Any, plan_sha256: str) -> None:  # noqa: ANN401 - untyped library
        """Prepare a context's settings.

        Args:
            library: the plan's.
            engine: the deserialized plan.
            plan_sha256: names the file.
        """
        self._engine = engine
        self._config: Any = None
        if hasattr(library, "IRuntimeCache"):
            self._config = self._engine.create_runtime_config()
            strategies = library.DynamicShapesKernelSpecializationStrategy
            self._config.dynamic_shapes_kernel_specialization_strategy = strategies.LAZY
            # Steps are recorded by `Replays`, which keeps one graph for each length; this would keep the last.
            self._config.cuda_graph_strategy = library.CudaGraphStrategy.DISABLED
            self._attach(cache_folder() / f"{plan_sha256}.kernels")

    def context(self) -> Any:  # noqa: ANN401 - untyped library
        """An execution context of the plan; None where the library fails."""
        if self._config is None:
            return self._engine.create_execution_context()
        return self._engine.create_execution_context(self._config)

    def _attach(self, file: Path) -> None:
        cache = self._config.create_runtime_cache()
        before = file.read_bytes() if file.is_file() else b""
        if before:
            cache.deserialize(before)  # another GPU's or version's is refused, and replaced at the end
        self._config.set_runtime_cache(cache)
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

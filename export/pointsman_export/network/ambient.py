"""What torch and NumPy compute with is theirs to set, process-wide: an export must not depend on it, nor change it."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

_DEVICES = ("cpu", "cuda")


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """Compute in here with torch's and NumPy's defaults; the caller's settings are back afterwards."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_dtype(torch.float32))
        stack.enter_context(_exact_products())
        stack.enter_context(_any_algorithm())
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        # Contexts of torch's own are entered only where they change something.
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(mode=False))
        for device in _DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextlib.contextmanager
def _dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def _exact_products() -> Iterator[None]:
    """Products of float32 in float32, not in bfloat16 or TF32, whatever torch was set to."""
    backends = (torch.backends.mkldnn.matmul, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    overall = None
    with contextlib.suppress(RuntimeError):  # which torch raises if backends were set one by one
        overall = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if overall is not None:
            torch.set_float32_matmul_precision(overall)
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


@contextlib.contextmanager
def _any_algorithm() -> Iterator[None]:
    """No refusal of operations that torch has no deterministic algorithm for on some device.

    `torch.use_deterministic_algorithms` would set the same, and import torch's compiler for it: most of a second.
    """
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)

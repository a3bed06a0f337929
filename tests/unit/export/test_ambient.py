"""An export computes the same whatever torch was set to before, and leaves torch as it was."""

import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from pointsman_export.bundle import export_bundle
from pointsman_export.cli.main import main
from pointsman_export.network.ambient import pinned


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def product_precision(precision):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def backend_precision(precision):
    """The newer way to say so, which the older way of asking refuses to answer."""
    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = precision
    try:
        yield
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(mode=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode=False)


SETTINGS = {
    "float16": lambda: default_dtype(torch.float16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "meta": lambda: default_device("meta"),
    "in a context of meta": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "medium": lambda: product_precision("medium"),
    "bf16 products": lambda: backend_precision("bf16"),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "deterministic": deterministic,
    "NumPy raises": lambda: np.errstate(all="raise"),
}


def state() -> tuple[object, ...]:
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_autocast_enabled("cpu"),
        torch.backends.mkldnn.matmul.fp32_precision,
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        tuple(np.geterr().items()),
    )


@pytest.fixture(scope="module")
def plain(exports) -> Path:
    return exports("tied").folder


def files(bundle: Path) -> dict[str, bytes]:
    found = {path.relative_to(bundle).as_posix(): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if name != "manifest.json"}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_the_same_bundle_and_the_same_settings_after(exports, plain, tmp_path, settings):
    with settings():
        before = state()
        manifest = export_bundle(exports.checkpoint("tied"), tmp_path / "bundle", forms=["fused"])
        assert state() == before
    assert files(tmp_path / "bundle") == files(plain)
    assert manifest.variants == exports("tied").manifest.variants


def test_an_export_under_all_of_them(exports, plain, tmp_path):
    with default_dtype(torch.bfloat16), default_device("meta"), torch.autocast("cpu"), product_precision("medium"):
        export_bundle(exports.checkpoint("tied"), tmp_path / "bundle", forms=["fused"])
    assert files(tmp_path / "bundle") == files(plain)


def test_products_are_exact_in_here():
    torch.manual_seed(0)
    left, right = torch.rand(64, 512), torch.rand(512, 64)
    exact = left.double() @ right.double()
    with product_precision("medium"), pinned():
        assert torch.get_float32_matmul_precision() == "highest"
        assert ((left @ right - exact).abs() / exact).max() < 1e-6


def test_the_command_in_a_thread(exports, tmp_path):
    """Only a main thread may say what signals do."""
    codes = []

    def run() -> None:
        codes.append(
            main(["bundle", str(exports.checkpoint("tied")), "-o", str(tmp_path / "bundle"), "--form", "fused"])
        )

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert codes == [0]


def test_settings_are_kept_without_the_compiler():
    """It takes most of a second to import, in every process that exports."""
    code = "import sys; from pointsman_export.network.ambient import pinned; pinned().__enter__(); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in modules
    assert "torch._inductor" not in modules

"""What a process with one variant takes of the RAM."""

import signal
import subprocess

import pytest

from pointsman_calib.comparison.measuring import footprint as module
from pointsman_calib.comparison.measuring.footprint import footprint


def test_a_process_of_its_own(comparison):
    """NumPy and ONNX Runtime alone take tens of megabytes; torch and the calibrator, which run here, hundreds."""
    for variant in comparison.variants:
        assert 30e6 < variant.footprint.loaded_bytes <= variant.footprint.peak_bytes < 250e6


def test_longer_texts_take_more(quantized_bundle):
    short, long = (
        footprint(quantized_bundle, "fused-float32", [[5] * tokens], max_new_tokens=2) for tokens in (8, 500)
    )
    assert long.peak_bytes > short.peak_bytes + 3e6


def test_a_system_that_does_not_tell(quantized_bundle, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "STATUS", tmp_path / "none")
    assert footprint(quantized_bundle, "fused-float32", [[5]], max_new_tokens=2) is None


def test_a_process_that_fails(tmp_path):
    with pytest.raises(RuntimeError, match="BundleNotFoundError"):
        footprint(tmp_path, "fused-float32", [[5]], max_new_tokens=2)


def test_a_process_that_was_killed(quantized_bundle, monkeypatch):
    killed = subprocess.CompletedProcess([], -signal.SIGKILL, "", "")
    monkeypatch.setattr(module.subprocess, "run", lambda *_, **__: killed)
    assert footprint(quantized_bundle, "fused-float32", [[5]], max_new_tokens=2) is None

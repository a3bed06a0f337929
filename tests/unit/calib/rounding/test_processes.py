"""Weights that processes round are those that this one rounds, and so are the errors."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pointsman.errors import BundleError, EngineError
from pointsman_calib.rounding import BlockFormat, gptq, processes
from pointsman_calib.rounding.processes import GptqProcesses, suitable

FORM = BlockFormat(bits=4, block_size=16, search=True)
HESSIAN = np.diag(np.arange(1, 49, dtype=np.float32))


def weights(count):
    drawn = np.random.default_rng(0)
    return [drawn.standard_normal((48, 24)).astype(np.float32).T.copy().T for _ in range(count)]


@pytest.mark.parametrize(("cores", "count"), [(1, 1), (2, 1), (3, 1), (4, 2), (7, 3), (16, 8), (64, 8)])
def test_how_many(monkeypatch, cores, count):
    monkeypatch.setattr(processes, "usable", lambda: cores)
    assert suitable() == count


@pytest.mark.parametrize("count", [1, 2])
def test_the_same_codes(count):
    with GptqProcesses(count) as several, ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda weight: several.gptq(weight, HESSIAN, FORM), weights(5)))
    for each, weight in zip(found, weights(5), strict=True):
        expected = gptq(weight, HESSIAN, FORM)
        np.testing.assert_array_equal(each.codes, expected.codes)
        np.testing.assert_array_equal(each.scales, expected.scales)


def test_errors_are_those_of_gptq_and_the_next_weight_is_rounded():
    with GptqProcesses(2) as several:
        for _ in range(3):
            with pytest.raises(BundleError, match="a weight has NaN or infinite values"):
                several.gptq(np.full((48, 2), np.nan, np.float32), HESSIAN, FORM)
        assert several.gptq(weights(1)[0], HESSIAN, FORM).inputs == 48


def test_what_lies_in_the_working_directory_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "queue.py").write_text("raise SystemExit('this is not Python's own')")
    monkeypatch.chdir(tmp_path)
    with GptqProcesses(2) as several:
        assert several.gptq(weights(1)[0], HESSIAN, FORM).inputs == 48


def test_a_process_that_ends_in_the_middle_of_its_answer(monkeypatch):
    half = "import sys; sys.stdin.buffer.read(1); sys.stdout.buffer.write(bytes((0x80, 5, 0x95, 9)))"
    command = [sys.executable, "-c", half]
    monkeypatch.setattr(
        processes, "_started", lambda _: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    )
    with GptqProcesses(2) as several, pytest.raises(EngineError, match="a process that rounds weights ended"):
        several.gptq(weights(1)[0], HESSIAN, FORM)


def test_a_process_that_ended():
    with GptqProcesses(2) as several:
        for process in several._all:
            process.kill()
            process.wait()
        with pytest.raises(EngineError, match="a process that rounds weights ended"):
            several.gptq(weights(1)[0], HESSIAN, FORM)

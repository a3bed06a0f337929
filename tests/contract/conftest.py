"""Modules of the benchmarks, which find each other beside themselves."""

import importlib

import pytest

from benchmark_scripts import BENCHMARKS


@pytest.fixture
def load(monkeypatch):
    """Import one of them."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module

"""How many processors a process may use."""

import os

import pytest

from pointsman import processors as module
from pointsman.processors import restricted, usable


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine of eight processors, as a process sees it that may run on some, and has a share of their time."""

    def seen(allowed, quota):
        monkeypatch.setattr(os, "cpu_count", lambda: 8)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)), raising=False)
        path = tmp_path / "cpu.max"
        if quota is not None:
            path.write_text(f"{quota}\n", encoding="ascii")
        monkeypatch.setattr(module, "_QUOTA", path)

    return seen


@pytest.mark.parametrize(
    ("allowed", "quota", "count"),
    [
        (8, None, 8),
        (8, "max 100000", 8),
        (3, None, 3),
        (8, "200000 100000", 2),
        (8, "150000 100000", 2),
        (8, "10000 100000", 1),
        (2, "600000 100000", 2),
        (8, "1600000 100000", 8),
        (8, "something else", 8),
    ],
)
def test_processors(machine, allowed, quota, count):
    machine(allowed, quota)
    assert usable() == count
    assert restricted() == (None if count == 8 else count)


def test_a_system_that_does_not_say(machine, monkeypatch):
    machine(2, None)
    monkeypatch.delattr(os, "sched_getaffinity")
    assert (usable(), restricted()) == (8, None)

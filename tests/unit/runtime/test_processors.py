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
        if quota is not None:
            (tmp_path / "cpu.max").write_text(f"{quota}\n", encoding="ascii")
        monkeypatch.setattr(module, "_GROUPS", tmp_path)
        monkeypatch.setattr(module, "_OWN_GROUPS", tmp_path / "own")

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


@pytest.mark.parametrize("group", ["", "system.slice", "system.slice/ours.service"])
def test_a_service_of_the_machine(machine, tmp_path, group):
    """It sees all groups, and has the least of its own and of those that it is in."""
    machine(8, None)
    (tmp_path / "own").write_text("0::/system.slice/ours.service\n", encoding="ascii")
    (tmp_path / "system.slice/ours.service").mkdir(parents=True)
    (tmp_path / group / "cpu.max").write_text("300000 100000\n", encoding="ascii")
    assert usable() == 3


@pytest.mark.parametrize(("quota", "count"), [("250000", 3), ("-1", 8)])
@pytest.mark.parametrize("group", ["", "docker/1234"])
def test_the_first_version_of_groups(machine, tmp_path, group, quota, count):
    machine(8, None)
    (tmp_path / "own").write_text("3:cpu,cpuacct:/docker/1234\n2:memory:/other\n", encoding="ascii")
    folder = tmp_path / "cpu" / group
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n", encoding="ascii")
    (folder / "cpu.cfs_period_us").write_text("100000\n", encoding="ascii")
    assert usable() == count


def test_a_system_that_does_not_say(machine, monkeypatch):
    machine(2, None)
    monkeypatch.delattr(os, "sched_getaffinity")
    assert (usable(), restricted()) == (8, None)

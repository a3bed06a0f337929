"""The machine in words."""

import platform

import pytest

from pointsman_calib.comparison import machine as module

STANZA = "processor\t: {}\nmodel name\t: A Fast One @ 3 GHz\nphysical id\t: {}\nsiblings\t: 4\ncore id\t\t: {}\n\n"


@pytest.fixture(autouse=True)
def every_core(monkeypatch):
    """The process may use all of the machine."""
    monkeypatch.setattr(module, "restricted", lambda: None)


@pytest.mark.parametrize(
    ("places", "cores"),
    [([(0, 0), (0, 1)], 2), ([(0, 0), (0, 0), (0, 1), (0, 1)], 2), ([(0, 0), (0, 1), (1, 0), (1, 1)], 4)],
)
def test_physical_cores(monkeypatch, tmp_path, places, cores):
    path = tmp_path / "cpuinfo"
    path.write_text("".join(STANZA.format(number, *place) for number, place in enumerate(places)))
    monkeypatch.setattr(module, "_CPUS", path)
    system = f"{platform.system()} {platform.machine()}"
    assert module.machine() == f"A Fast One @ 3 GHz, a thread on each of {cores} physical cores, {system}"


def test_a_process_that_may_use_fewer(monkeypatch):
    monkeypatch.setattr(module, "restricted", lambda: 1)
    monkeypatch.setattr(module.os, "cpu_count", lambda: 8)
    assert ", 1 thread, as many as this process may use of 8 logical cores, " in module.machine()


def test_a_system_that_does_not_say(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_CPUS", tmp_path / "none")
    assert "ONNX Runtime's own choice of threads on " in module.machine()

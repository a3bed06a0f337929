"""What is said of a run while it runs, and at its end."""

import io
import time

import pytest

from pointsman.cli.batch import progress as module
from pointsman.cli.batch.progress import Progress, duration


@pytest.fixture
def clock(monkeypatch):
    """Sets the time; the first is 0."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, seconds)


def counted(progress, count, failed=0):
    for number in range(count):
        progress.count(progress.done + 1, failed=number < failed)


def test_rates_and_times_are_of_this_run_and_come_when_they_mean_something(clock):
    with Progress(1200, io.StringIO(), before=200, window=400) as progress:
        clock(10.0)
        counted(progress, 399)
        assert progress.now == "599 of 1,200 lines"
        counted(progress, 101)
        assert progress.now == "700 of 1,200 lines, 50.0 a second, about 10 s left"
        clock(4.0)
        assert progress.now == "700 of 1,200 lines"
        clock(10.0)
        assert progress.end == "700 of 1,200 lines (200 there already), 50.0 a second: done"


def test_a_rate_needs_a_second(clock):
    with Progress(3, io.StringIO()) as progress:
        clock(0.9)
        counted(progress, 3)
        assert progress.end == "3 of 3 lines: done"
        clock(1.5)
        assert progress.end == "3 of 3 lines, 2.0 a second: done"


def test_a_stream_has_no_end(clock):
    with Progress(None, io.StringIO()) as progress:
        clock(10.0)
        counted(progress, 2000, failed=1500)
        assert progress.now == "2,000 lines, 200.0 a second"
        assert progress.end == "2,000 lines, 200.0 a second, 1,500 with an error: done"


def test_all_was_there(clock):
    with Progress(1110, io.StringIO(), before=1110, failed=2) as progress:
        assert progress.end == "1,110 of 1,110 lines, all there already, 2 with an error: done"


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "0 s"), (119, "119 s"), (120, "2 min"), (6997, "117 min"), (7200, "2.0 h")]
)
def test_durations(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize("terminal", [True, False])
def test_a_sign_of_life(monkeypatch, terminal):
    """It comes without a line being answered, too."""
    monkeypatch.setattr(module, "_SECONDS_ON_A_TERMINAL", 0.01)
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_LINES", 0.01)
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    with Progress(9, stream) as progress:
        while "\n" not in stream.getvalue() and "K" not in stream.getvalue():
            time.sleep(0.01)
        progress.count(1, failed=False)
    said = stream.getvalue()
    assert said.startswith("\r0 of 9 lines\x1b[K" if terminal else "pointsman: 0 of 9 lines\n")
    assert said.endswith("\r\x1b[K" if terminal else "lines\n")
    assert ("\n" in said) is not terminal

"""What is said on stderr while something long is done, on a terminal and where there is none."""

import re
import sys
import time

import pytest

from pointsman_calib import progress
from pointsman_calib.progress import Progress


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.02)


def wait_for(lines: int, capsys) -> list[str]:
    """The first lines on stderr."""
    said = ""
    deadline = time.monotonic() + 10
    while said.count("\n") < lines and time.monotonic() < deadline:
        time.sleep(0.01)
        said += capsys.readouterr().err
    return said.splitlines()


def test_lines_where_there_is_no_terminal(often, capsys):
    with Progress("rounding", 8, done=4) as shown:
        assert re.fullmatch(r"pointsman-calib: rounding: 50% after 0 s", wait_for(1, capsys)[0])
        shown.update(3)
        said = wait_for(2, capsys)[-1]
    assert re.fullmatch(r"pointsman-calib: rounding: 88% after \d s, about 0 s left", said)
    assert "\r" not in said
    time.sleep(0.05)
    capsys.readouterr()
    time.sleep(0.05)
    assert capsys.readouterr().err == ""  # nothing comes after its end


def test_of_stages_within_stages_the_innermost_speaks(often, capsys):
    with Progress("outer", 1), Progress("inner", 1):
        assert {line.split(":")[1].strip() for line in wait_for(3, capsys)} == {"inner"}


def test_what_takes_less_says_nothing(capsys):
    with Progress("short", 1) as shown:
        shown.update()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ((0.0, 9.6, None), "what: 0% after 10 s"),
        ((0.254, 59.6, 175.0), "what: 25% after 1 min 0 s, about 2 min 55 s left"),
        ((1.0, 3601, 0.0), "what: 100% after 60 min 1 s, about 0 s left"),
    ],
)
def test_times(state, said):
    assert progress.line("what", *state) == f"pointsman-calib: {said}"


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("rounding", 2_000_000, unit="B") as shown:
        shown.update(1_000_000)
    said = capsys.readouterr().err
    assert "\rrounding:" in said
    assert "1.00M/2.00M" in said

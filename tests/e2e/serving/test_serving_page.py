"""The commands and programs in docs/serving.md, run as they stand there against a service."""

import re
import subprocess
import sys

import pytest

from e2e.readme import sh
from places import ROOT

DOCUMENT = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
SERVICE = "127.0.0.1:8000"
COMMANDS = re.findall(r"^curl .+$", DOCUMENT, re.MULTILINE)
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(served, command, tmp_path):
    printed = sh(
        command.replace(f"http://{SERVICE}", served.url).replace("curl ", "curl --fail --silent ", 1), tmp_path
    )
    assert printed.startswith("event: span" if "stream" in command else "{")


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_programs(served, program):
    there = program.replace(SERVICE, served.url.removeprefix("http://"))
    done = subprocess.run([sys.executable, "-c", there], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_every_status_that_is_documented_is_one(http):
    asked = {
        400: http.post("/v1/infill", content=b'{"text', headers={"Content-Type": "application/json"}),
        404: http.get("/nothing"),
        405: http.get("/v1/infill"),
        415: http.post("/v1/infill", content=b"{}", headers={"Content-Type": "text/plain"}),
    }
    documented = re.findall(r"\d{3}", " ".join(re.findall(r"^\| ([\d, ]+) \|", DOCUMENT, re.MULTILINE)))
    assert len({*documented}) == len(documented) == 12
    for status, answer in asked.items():
        assert answer.status_code == status
        assert str(status) in documented


def test_every_option_and_metric_is_there(http):
    listed = sh("pointsman serve --help", ROOT)
    for option in re.findall(r"^\| `(--[\w-]+)`", DOCUMENT, re.MULTILINE):
        assert option in listed
    shown = http.get("/metrics").text
    assert "_created" not in shown
    for metric in re.findall(r"`(pointsman_\w+)`", DOCUMENT):
        assert metric in shown

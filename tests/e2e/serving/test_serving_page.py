"""The commands and programs in docs/serving.md and docs/deployment.md, run as they stand there against a service."""

import json
import re
import shlex
import subprocess
import sys

import pytest

from e2e.readme import sh
from e2e.serving.answering import answering
from e2e.serving.served import serving
from places import ROOT
from pointsman import Client, errors

DOCUMENT, DEPLOYMENT = ((ROOT / f"docs/{name}.md").read_text(encoding="utf-8") for name in ("serving", "deployment"))
SERVICE = "127.0.0.1:8000"
COMMANDS = re.findall(r"^curl .+$", DOCUMENT, re.MULTILINE)
STATUSES = re.findall(r"^\| (\d{3}) \| .+ \| (.+) \| .+ \|$", DOCUMENT, re.MULTILINE)
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
        403: http.post("/v1/infill", headers={"Sec-Fetch-Site": "cross-site"}),
        404: http.get("/nothing"),
        405: http.get("/v1/infill"),
        415: http.post("/v1/infill", content=b"{}", headers={"Content-Type": "text/plain"}),
    }
    documented = [status for status, _ in STATUSES]
    assert len({*documented}) == len(documented) == 13
    for status, answer in asked.items():
        assert answer.status_code == status
        assert str(status) in documented


@pytest.mark.parametrize(("status", "raised"), STATUSES)
def test_what_clients_raise(status, raised):
    """An answer of the service's own form, as it gives it with this status."""
    status, names = int(status), re.findall(r"`(\w+)`", raised)
    for name in names:
        code = name if status == 400 else None
        told = f'{{"error": {{"message": "why", "code": {json.dumps(code)}}}}}'.encode()
        with answering(f"{status} No".encode(), told) as url, Client(url) as client:
            with pytest.raises(getattr(errors, name), match="why") as found:
                client.infill("A <extra_id_0> day.")
            assert type(found.value).__name__ == name
            assert getattr(found.value, "status", status) == status


def test_keys(bundle, tmp_path):
    """The commands in their order, at another port and on this machine alone."""
    (block,) = re.findall(r"^```sh\n(.*?)^```$", DEPLOYMENT, re.MULTILINE | re.DOTALL)
    *making, serve, ask = block.splitlines()
    sh("\n".join(making), tmp_path)
    *_, host, keys, file = shlex.split(serve)
    assert (host, keys) == ("0.0.0.0", "--api-keys")
    with serving(bundle, keys, tmp_path / file) as running:
        asked = ask.replace(f"http://{SERVICE}", running.url).replace("curl ", "curl --fail --silent ", 1)
        assert sh(asked, tmp_path).startswith("{")
        another = asked.replace("$(cat keys.txt)", "another-key-of-some-length")
        assert another != asked
        assert sh(f"! {another}", tmp_path) == ""


def test_what_older_versions_of_curl_take(served, tmp_path):
    (options,) = re.findall(r"it takes `(-H .+? -d '.+?)'` in its place", DOCUMENT)
    body = options.replace('{"text": …}', '{"text": "A <extra_id_0> day."}')
    assert sh(f"curl --fail --silent {served.url}/v1/infill {body}'", tmp_path).startswith("{")


def test_every_option_and_metric_is_there(http):
    listed = sh("pointsman serve --help", ROOT)
    for option in re.findall(r"^\| `(--[\w-]+)`", DEPLOYMENT, re.MULTILINE):
        assert option in listed
    shown = http.get("/metrics").text
    assert "_created" not in shown
    for metric in re.findall(r"`(pointsman_\w+)`", DEPLOYMENT):
        assert metric in shown

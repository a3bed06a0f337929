"""Requests that schemathesis makes from the OpenAPI document, right and wrong ones."""

import re
import subprocess

import pytest

from conftest import installed

# Options may contradict each other, which a schema cannot say: what it allows may be refused.
LEFT_OUT = "positive_data_acceptance"
# A client may wait for too little.
SETTINGS = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 504]
"""


@pytest.mark.parametrize(
    ("cases_each", "fewest"), [(25, 700), pytest.param(450, 5000, marks=pytest.mark.slow)], ids=["fast", "slow"]
)
def test_generated_requests(served, http, tmp_path, cases_each, fewest):
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    command = [installed("schemathesis"), "run", f"{served.url}/openapi.json", "--seed", "1", "--no-color"]
    how = ["--phases", "examples,coverage,fuzzing", "--max-examples", str(cases_each), "--workers", "2"]
    checked = ["--exclude-checks", LEFT_OUT, "--request-timeout", "20", "--max-response-time", "15"]
    done = subprocess.run([*command, *how, *checked], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    generated = re.search(r"(\d+) generated, \1 passed", done.stdout)
    assert generated, done.stdout[-2000:]
    assert int(generated[1]) >= fewest
    assert [record for record in served.log if record.get("level") == "error"] == []
    assert http.post("/v1/infill", json={"text": "A <extra_id_0>."}).status_code == 200

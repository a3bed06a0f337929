"""`pointsman fill-files`: what it prints, how it ends, and where Ray does not start or is not there."""

import json
import re
import signal
import socket
import subprocess
import time

import psutil
import pytest

from conftest import installed
from e2e.serving.ray_rows import GOOD, as_lines, write_rows

ray = pytest.importorskip("ray", reason="ray is not installed; `make test-slow` installs it")
pytestmark = pytest.mark.slow


def run_command(bundle, *arguments):
    command = [installed("pointsman"), "fill-files", bundle, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command(bundle, tmp_path):
    path = write_rows(tmp_path / "t.jsonl", [*GOOD, {"number": 3}])
    arguments = (path, "-o", tmp_path / "out", "--num-beams", "2", "--rows", "3")
    failed = run_command(bundle, *arguments)
    assert failed.returncode == 2
    assert failed.stdout == f"{tmp_path / 'out/t-00000.jsonl'}\n"
    first, second, last = failed.stderr.splitlines()
    assert first == "pointsman: 2 shards to write, 4 rows"
    assert re.fullmatch(r"pointsman: 1 of 2 shards, [\d.]+ rows a second, \d+ s left", second)
    assert last == (
        f"pointsman: {path}, row 4: the object has no text; mend the row, or go on past such rows with --on-error skip"
    )
    done = run_command(bundle, *arguments, "--on-error", "skip")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'out/t-00001.jsonl'}\n")
    assert done.stderr.splitlines()[-1] == (
        "pointsman: 1 shard written; 1 shard had been there; 1 row without a fill in all (filled_error says why)"
    )
    (tmp_path / "out/t-00000.jsonl").unlink()
    again = run_command(bundle, *arguments, "--on-error", "skip")
    assert again.stderr.splitlines()[-1] == done.stderr.splitlines()[-1]
    assert json.loads((tmp_path / "out/t-00000.jsonl").read_text().splitlines()[0])["filled"]
    path.write_text(as_lines(GOOD[:2]))
    changed = run_command(bundle, *arguments)
    assert (changed.returncode, changed.stdout) == (2, "")
    assert changed.stderr.endswith("or have such shards made again with --on-change redo\n")
    assert changed.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_with_one_line(bundle, tmp_path, number):
    path = write_rows(tmp_path / "t.jsonl", GOOD * 200)
    command = [installed("pointsman"), "fill-files", bundle, path, "-o", tmp_path / "out", "--rows", "3"]
    with (tmp_path / "printed").open("w") as printed:
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "printed").stat().st_size:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == 128 + number
    shards = (tmp_path / "printed").read_text().count("\n")
    assert err.splitlines()[-1].startswith(f"pointsman: interrupted after {shards} shard")
    assert err.count("interrupted") == 1
    assert "Traceback" not in err
    other = run_command(bundle, path, "-o", tmp_path / "out", "--rows", "4", "--num-beams", "2")
    assert "was begun with --num-beams 1, --rows 3, and this run has --num-beams 2, --rows 4; " in other.stderr


def test_a_cluster_that_is_not_there(bundle, tmp_path, monkeypatch):
    path = write_rows(tmp_path / "t.jsonl", GOOD)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        given = run_command(bundle, path, "-o", tmp_path / "out", "--address", address)
        monkeypatch.setenv("RAY_ADDRESS", address)
        found = run_command(bundle, path, "-o", tmp_path / "out")
    for failed, instead in ((given, "leave out --address"), (found, "unset RAY_ADDRESS")):
        assert failed.returncode == 2
        (said,) = failed.stderr.splitlines()[1:]
        assert said == (
            f"pointsman: there is no cluster to join at {address} (Connection refused); check the address, and that "
            f"Ray {ray.__version__} runs there, or {instead} to start one on this machine"
        )


def test_a_start_that_takes_too_long(bundle, tmp_path):
    path, stalled = write_rows(tmp_path / "t.jsonl", GOOD), []
    command = [installed("pointsman"), "fill-files", bundle, path, "-o", tmp_path / "out"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not stalled:
        assert process.poll() is None
        stalled = [child for child in psutil.Process(process.pid).children() if child.name() == "raylet"]
    stalled[0].suspend()
    _, err = process.communicate()
    if stalled[0].is_running():
        stalled[0].kill()
    assert process.returncode == 2
    (said,) = err.splitlines()[1:]
    assert said == (
        "pointsman: Ray did not start on this machine (The current node timed out during startup); set that right, or "
        "try again when it has less to do, or join a cluster that runs, with --address"
    )

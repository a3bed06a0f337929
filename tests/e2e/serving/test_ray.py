"""Ray: two replicas of which one is killed under load, and a column of a dataset."""

import collections
import signal
import threading
import time

import httpx2
import psutil
import pytest

from pointsman import BundleError, Client, OptionsError, TextError, UnavailableError

ray = pytest.importorskip("ray", reason="ray is not installed; `make test-slow` installs it")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]
TEXT = "The <extra_id_0> walks in <extra_id_1> park."
TEXTS = [TEXT, "Once upon a <extra_id_0>.", "A <extra_id_0> day."] * 7
URL = "http://127.0.0.1:8765"


@pytest.fixture(scope="module")
def replicas(cluster, bundle):
    from ray import serve

    from pointsman.ray import application

    serve.start(http_options={"host": "127.0.0.1", "port": 8765})
    serve.run(application(f"file://{bundle}", name="demo", variant="fused-float32", threads=1, replicas=2))
    yield
    serve.shutdown()


def test_replicas_answer_as_the_library(replicas, library):
    with Client(URL) as client:
        assert client.infill(TEXT, num_beams=3) == library.infill(TEXT, num_beams=3)
        assert [*client.stream(TEXT)] == [*library.stream(TEXT)]
        with pytest.raises(TextError, match="the text has no blank"):
            client.infill("no blank")
    assert httpx2.get(f"{URL}/v2/health/ready").status_code == 200
    assert "pointsman_requests_total" in httpx2.get(f"{URL}/metrics").text


def replica_processes():
    names = ((process, " ".join(process.info["cmdline"] or [])) for process in psutil.process_iter(["cmdline"]))
    return [process for process, name in names if name.startswith("ray::ServeReplica")]


def has_two_replicas(besides):
    """Whether there are two within a minute; a busy machine takes seconds to start one."""
    until = time.monotonic() + 60
    while (count := sum(process.pid != besides for process in replica_processes())) != 2 and time.monotonic() < until:
        time.sleep(0.2)
    return count == 2


def test_a_replica_that_is_killed_takes_only_its_own_requests_with_it(replicas, library):
    expected, outcomes, over = library.infill(TEXT, num_beams=4), collections.Counter(), threading.Event()

    def ask():
        with Client(URL) as client:
            while not over.is_set():
                try:
                    outcomes["right" if client.infill(TEXT, num_beams=4) == expected else "wrong"] += 1
                except UnavailableError:
                    outcomes["ask again"] += 1

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(3)
    killed, _ = replica_processes()
    killed.send_signal(signal.SIGKILL)
    before = outcomes["right"]
    time.sleep(8)
    over.set()
    for thread in threads:
        thread.join()
    assert outcomes["wrong"] == 0
    assert outcomes["ask again"] <= len(threads)
    assert outcomes["right"] > before + len(threads)
    assert has_two_replicas(besides=killed.pid)


def test_a_column_of_a_dataset(cluster, bundle, library):
    from pointsman.ray import fill

    dataset = ray.data.from_items([{"number": number, "text": text} for number, text in enumerate(TEXTS)])
    filled = fill(dataset, str(bundle), variant="fused-float32", threads=1, actors=2, batch_size=4, num_beams=2)
    rows = sorted(filled.take_all(), key=lambda row: row["number"])
    assert [row["filled"] for row in rows] == [library.infill(text, num_beams=2)[0].text for text in TEXTS]
    assert all(row["filled_score"] < 0 for row in rows)
    with pytest.raises(OptionsError, match="leave out seed"):
        fill(dataset, str(bundle), do_sample=True, seed=1)


def test_bundles_in_a_folder_of_somebody_else(bundle, tmp_path, monkeypatch):
    """What lies there would be taken for what was fetched."""
    from pointsman.ray import bundles

    monkeypatch.setattr(bundles, "_FETCHED", tmp_path / "fetched")
    assert bundles.local_bundle(f"file://{bundle}").parent == tmp_path / "fetched"
    assert (tmp_path / "fetched").stat().st_mode & 0o077 == 0
    (tmp_path / "link").symlink_to(tmp_path / "fetched")
    monkeypatch.setattr(bundles, "_FETCHED", tmp_path / "link")
    with pytest.raises(BundleError, match="is another account's; remove it, or set TMPDIR"):
        bundles.local_bundle(f"file://{bundle}")

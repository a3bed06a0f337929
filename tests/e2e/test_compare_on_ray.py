"""A comparison whose documents actors of Ray count in shards: as without Ray, whoever is killed under way."""

import json
import re
import shutil
import subprocess
import threading
import time
from dataclasses import replace

import psutil
import pytest

from conftest import installed
from e2e.pages import PAGES, follow
from places import EXAMPLES
from pointsman.errors import BundleError, OptionsError, OutputError

ray = pytest.importorskip("ray", reason="ray is not installed; `make test-slow` installs it")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]
UNSEEN = EXAMPLES / "data/c4-sample-validation.json.gz"
OPTIONS = {"candidates": ["portable-float32", "fused-int8"], "layers": True, "generations": 0}


@pytest.fixture(scope="module")
def bundle(quantized):
    return quantized / "build/demo"


@pytest.fixture(scope="module")
def corpus(bundle):
    """Twelve documents."""
    from pointsman_calib import Corpus

    return Corpus.read(bundle, [UNSEEN])


@pytest.fixture(scope="module")
def local(bundle, corpus):
    from pointsman_calib import compare

    return compare(bundle, corpus, **OPTIONS)


@pytest.fixture
def compare_in_shards(cluster, bundle, corpus):
    """Compare with shards of a folder."""
    from pointsman_calib import compare
    from pointsman_calib.ray import Shards

    def run(folder, *, text=corpus, batch_size=4, **settings):
        shards = Shards(folder=folder, **{"documents_per_shard": 4, "actors": 2, "threads": 1} | settings)
        return compare(bundle, text, counter=shards, batch_size=batch_size, **OPTIONS)

    return run


def written(folder):
    """When each shard was."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("0*.json")}


@pytest.mark.parametrize(("documents", "shards"), [(4, 3), (8, 2), (64, 1)])
def test_two_actors_find_what_one_process_does(compare_in_shards, local, tmp_path, documents, shards):
    assert compare_in_shards(tmp_path / "counted", documents_per_shard=documents) == local
    assert len(written(tmp_path / "counted")) == shards


def test_shards_that_are_there_stay(compare_in_shards, local, tmp_path):
    compare_in_shards(tmp_path)
    before = written(tmp_path)
    assert compare_in_shards(tmp_path, actors=1, threads=None) == local
    assert written(tmp_path) == before
    (tmp_path / "00001.json").unlink()
    assert compare_in_shards(tmp_path) == local
    assert {name for name, moment in written(tmp_path).items() if moment != before[name]} == {"00001.json"}


def test_shards_of_another_comparison(compare_in_shards, corpus, tmp_path):
    compare_in_shards(tmp_path)
    reordered = replace(corpus, examples=corpus.examples[::-1])
    for other in ({"documents_per_shard": 8}, {"batch_size": 2}, {"text": reordered}):
        with pytest.raises(OutputError, match=r" was begun with .+, and this run has .+; give what it was begun with"):
            compare_in_shards(tmp_path, **other)


@pytest.mark.parametrize("documents", [0, 6])
def test_a_shard_ends_where_a_batch_does(compare_in_shards, tmp_path, documents):
    with pytest.raises(OptionsError, match=f"documents_per_shard is {documents} and documents are run in batches of 4"):
        compare_in_shards(tmp_path / "counted", documents_per_shard=documents)
    assert not (tmp_path / "counted").exists()


def test_a_machine_with_another_bundle(cluster, bundle, corpus, tmp_path):
    """What an actor refuses is said in its own words, in one line."""
    from pointsman_calib.comparison.counting import Reading
    from pointsman_calib.comparison.subject import open_subject
    from pointsman_calib.ray import Shards

    subject = open_subject(bundle, candidates=["fused-int8"])
    other = replace(subject, manifest=replace(subject.manifest, source=replace(subject.manifest.source, name="other")))
    reading = Reading(subject=other, corpus=corpus, layers=False, batch_size=4, device="cpu")
    with pytest.raises(BundleError) as raised:
        Shards(folder=tmp_path)(reading)
    assert str(raised.value) == f"a machine has another bundle at {bundle}; copy it there again"


def kill_one_at_work(killed, over):
    while not over.wait(0.02):
        for process in psutil.process_iter(["cmdline"]):
            if " ".join(process.info["cmdline"] or []).startswith("ray::_Worker.make"):
                process.kill()
                killed.append(process.pid)
                return


def test_an_actor_that_is_killed_is_replaced(compare_in_shards, local, tmp_path):
    killed, over = [], threading.Event()
    killer = threading.Thread(target=kill_one_at_work, args=[killed, over])
    killer.start()
    assert compare_in_shards(tmp_path) == local
    over.set()
    killer.join()
    assert len(killed) == 1
    assert len(written(tmp_path)) == 3


def test_a_command_that_is_killed_goes_on(bundle, local, tmp_path):
    command = [
        *(installed("pointsman-calib"), "compare", bundle, "--corpus", UNSEEN, "--layers", "--generations", "0"),
        *("--candidate", *OPTIONS["candidates"], "--json"),
        *("--shards", tmp_path, "--documents-per-shard", "4", "--actors", "1", "--threads", "1"),
    ]
    stopped = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (before := written(tmp_path)):
        assert stopped.poll() is None
        time.sleep(0.02)
    stopped.kill()
    stopped.wait()
    assert len(before) == 1
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == json.loads(local.to_json())
    assert before.items() <= written(tmp_path).items()
    assert len(written(tmp_path)) == 3


def test_the_example_of_the_page(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "build/demo")
    (example,) = re.findall(
        r"^```text\n(pointsman-calib compare .* --shards .*\n)```$", PAGES["calibration"], re.MULTILINE
    )
    (said,) = follow(f"```sh\n{example}```\n", tmp_path)
    assert "\n12 documents (sha256 " in said
    assert len(written(tmp_path / "counted")) == 3

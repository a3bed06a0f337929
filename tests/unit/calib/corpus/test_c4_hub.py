"""C4 from a hub: a small HTTP server on loopback plays the part of huggingface.co, in two pages of listing."""

import gzip
import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest

from hub_server import HubHandler, serving
from pointsman.errors import CorpusError
from pointsman_calib.cli.main import main
from pointsman_calib.corpus.c4 import read_documents

DATASET = "allenai/c4"
COMMIT = "c" * 40


def shard(*texts: str) -> bytes:
    return gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in texts).encode())


FILES = {
    "README.md": b"not needed",
    "en/c4-train.00000-of-00002.json.gz": shard("t0", "t1"),
    "en/c4-train.00001-of-00002.json.gz": shard("t2"),
    "en/c4-validation.00000-of-00001.json.gz": shard("v0"),
    "realnewslike/c4-train.00000-of-00001.json.gz": shard("n0"),
}


@dataclass
class Hub:
    """What was asked of the server, and how it answers."""

    url: str = ""
    error: str = ""
    refused: bool = False
    unavailable: bool = False
    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    fetched: list[str] = field(default_factory=list)


class Handler(HubHandler):
    hub: Hub

    def answer(self, *, body: bool) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        listing, files = f"/api/datasets/{DATASET}/tree/", f"/datasets/{DATASET}/resolve/"
        if self.hub.error:
            return self.send(403 if self.hub.error == "GatedRepo" else 404, b"", {"X-Error-Code": self.hub.error})
        if path.removeprefix(f"/api/datasets/{DATASET}") in ("", "/revision/main"):
            return self.send(200, json.dumps({"id": DATASET}).encode(), {})
        if self.hub.unavailable:
            return self.send(503, b"", {})
        if path.startswith(listing):
            return self._tree(path.removeprefix(f"{listing}main/"), second="cursor" in url.query)
        if path.startswith(files):
            return self._file(path.removeprefix(files).split("/", 1)[1], body=body)
        return self.send(404, b"", {"X-Error-Code": "RepoNotFound"})

    def _tree(self, folder: str, *, second: bool) -> None:
        entries = [
            {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
            for name, data in sorted(self.hub.files.items(), reverse=True)
            if name.startswith(folder + "/")
        ]
        if not entries:
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
        page = entries[1:] if second else entries[:1]
        more = {"Link": f'<{self.hub.url}{self.path}&cursor=1>; rel="next"'}
        return self.send(200, json.dumps(page).encode(), {} if second else more)

    def _file(self, name: str, *, body: bool) -> None:
        data = self.hub.files[name]
        if body:
            self.hub.fetched.append(name)
        if body and self.hub.refused:
            return self.send(403, b"", {})  # huggingface_hub tries again for half a minute after a 500
        return self.send(200, data, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT})


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[Hub]:
    hub = Hub()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with serving(Handler, monkeypatch, hub=hub) as hub.url:
        yield hub


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ({}, ["t0", "t1", "t2"]),
        ({"split": "validation"}, ["v0"]),
    ],
)
def test_a_split(hub, tmp_path, options, texts):
    documents = list(read_documents([DATASET], **options))
    assert [document.text for document in documents] == texts
    assert documents[0].place.startswith(str(tmp_path / "cache"))
    assert "README.md" not in hub.fetched


def test_files_are_fetched_when_the_stream_comes_to_them_and_once(hub):
    documents = read_documents([DATASET])
    assert hub.fetched == []
    assert [document.text for document in itertools.islice(documents, 2)] == ["t0", "t1"]
    assert hub.fetched == ["en/c4-train.00000-of-00002.json.gz"]
    assert len(list(read_documents([DATASET]))) == 3
    assert hub.fetched == ["en/c4-train.00000-of-00002.json.gz", "en/c4-train.00001-of-00002.json.gz"]


def test_a_file_of_that_name_wins(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("allenai").mkdir()
    Path(DATASET).write_text('{"text": "here"}\n')
    assert [document.text for document in read_documents([DATASET])] == ["here"]


def test_the_environment_names_the_mirror(hub, tmp_path):
    """In a process of its own, because huggingface_hub reads HF_ENDPOINT when it is imported."""
    code = (
        "from pointsman_calib.corpus.c4 import read_documents\n"
        f"print(*(document.text for document in read_documents([{DATASET!r}])))"
    )
    mirror = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    environment = os.environ | mirror | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "t0 t1 t2"
    assert (tmp_path / "home" / "hub").is_dir()


ANSWERS = {
    "no such dataset": ("RepoNotFound", "", r"^there is no file allenai/c4 here and no dataset allenai/c4 on the hub"),
    "gated": ("GatedRepo", "", r"^allenai/c4 asks for consent on the hub; give it there and set HF_TOKEN$"),
    "no such folder": ("", "en/", r"^allenai/c4 lacks the folder en or a file of it on the hub; give files$"),
    "no such split": (
        "",
        "en/c4-train",
        r"^allenai/c4 has no en/c4-train\.\*\.json\.gz on the hub; check the split, or give files$",
    ),
}


@pytest.mark.parametrize(("error", "missing", "sentence"), ANSWERS.values(), ids=ANSWERS.keys())
def test_what_the_hub_does_not_have(hub, error, missing, sentence):
    hub.error = error
    hub.files = {name: data for name, data in FILES.items() if not (missing and name.startswith(missing))}
    with pytest.raises(CorpusError, match=sentence) as raised:
        read_documents([DATASET])  # at once, before anything is read
    assert "\n" not in str(raised.value)


def test_a_file_that_cannot_be_fetched(hub):
    hub.refused = True
    with pytest.raises(CorpusError, match=r"fetching it from the hub failed \(.*\); check the network") as raised:
        list(read_documents([DATASET]))
    assert "\n" not in str(raised.value)


def test_no_network(hub, monkeypatch, capsys):
    """It is tried once, and nothing but the sentence is said."""
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"it waits {seconds} seconds to try again"))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CorpusError, match=r"fetching it from the hub failed .*or download files") as raised:
        read_documents([DATASET])
    assert "\n" not in str(raised.value)
    assert capsys.readouterr().err == ""


def test_a_network_that_fails_on_the_way(hub, monkeypatch, capsys):
    """A listing that has begun is tried again, without a word."""
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    hub.unavailable = True
    with pytest.raises(CorpusError, match=r"fetching it from the hub failed .*or download files"):
        read_documents([DATASET])
    assert waits
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("command", "options", "split"),
    [
        ("compare", [], "validation"),
        ("compare", ["--split", "train"], "train"),
        ("quantize", ["--scheme", "int4", "--force"], "train"),
        ("quantize", ["--scheme", "int4", "--force", "--split", "validation"], "validation"),
        ("ranges", ["-o", "ranges.json"], "train"),
        ("ranges", ["-o", "ranges.json", "--split", "validation"], "validation"),
    ],
)
def test_the_split_that_a_command_reads(hub, quantized_bundle, tmp_path, monkeypatch, capsys, command, options, split):

    def unusable(documents, *_, **__):
        raise CorpusError(f"none of {len(list(documents))} can be used")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pointsman_calib.corpus.text.examples", unusable)
    assert main([command, str(quantized_bundle), "--corpus", DATASET, *options]) == 2
    assert "can be used" in capsys.readouterr().err
    assert {name.partition(".")[0] for name in hub.fetched} == {f"en/c4-{split}"}


def test_an_impossible_id(hub):
    with pytest.raises(CorpusError, match=r"^there is no file a--b/c, and it is no dataset's id; check the name$"):
        read_documents(["a--b/c"])


def test_huggingface_hub_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CorpusError, match=r"needs huggingface_hub: pip install huggingface_hub, or give files$"):
        read_documents([DATASET])


def test_files_here_need_no_hub(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    (tmp_path / "c4.json").write_text('{"text": "a"}\n')
    assert [document.text for document in read_documents([tmp_path / "c4.json"])] == ["a"]

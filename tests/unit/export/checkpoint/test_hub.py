"""Fetching checkpoints from a hub: a small HTTP server on loopback plays the part of huggingface.co."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub
import numpy as np
import pytest
import torch
from digests import digest
from safetensors.torch import save

from checkpoints import CHECKPOINTS, weights, write_checkpoint
from hub_server import HubHandler, serving
from pointsman.errors import CheckpointError
from pointsman_export.checkpoint import Checkpoint, vocabulary

MODEL = "tracks/switch-tiny"
COMMITS = {"main": "a" * 40, "v2": "b" * 40}
SPEC = CHECKPOINTS["tied"]
FOR_OTHERS = {"README.md", "flax_model.msgpack", "tf_model.h5"}


@dataclass
class Hub:
    """What the server holds, and what was asked of it."""

    revisions: dict[str, dict[str, bytes]]
    url: str = ""
    token: str | None = None
    gated: bool = False
    refused: set[str] = field(default_factory=set)
    fetched: list[str] = field(default_factory=list)
    requests: int = 0


class Handler(HubHandler):
    hub: Hub

    def answer(self, *, body: bool) -> None:
        hub = self.hub
        hub.requests += 1
        path = unquote(urlsplit(self.path).path)
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            error = "GatedRepo" if hub.gated else "RepoNotFound"
            return self.send(403 if hub.gated else 401, b"{}", {"X-Error-Code": error})
        if path.startswith(f"/api/models/{MODEL}/revision/"):
            return self._revision(path.rsplit("/", 1)[1])
        if path.startswith(f"/api/models/{MODEL}/tree/"):
            return self._tree(path.rsplit("/", 1)[1])
        if path.startswith(f"/{MODEL}/resolve/"):
            revision, name = path.removeprefix(f"/{MODEL}/resolve/").split("/", 1)
            return self._file(revision, name, body=body)
        return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _commit(self, revision: str) -> str | None:
        return revision if revision in COMMITS.values() else COMMITS.get(revision)

    def _files(self, revision: str) -> dict[str, bytes]:
        commit = self._commit(revision)
        return next(files for name, files in self.hub.revisions.items() if COMMITS[name] == commit)

    def _revision(self, revision: str) -> None:
        commit = self._commit(revision)
        if commit is None:
            return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        siblings = [{"rfilename": name} for name in self._files(revision)]
        return self._json({"id": MODEL, "sha": commit, "siblings": siblings})

    def _tree(self, revision: str) -> None:
        if self._commit(revision) is None:
            return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        entries = [
            {"type": "file", "path": name, "size": len(data), "oid": f"{hash(data) & (2**160 - 1):040x}"}
            for name, data in self._files(revision).items()
        ]
        return self._json(entries)

    def _file(self, revision: str, name: str, *, body: bool) -> None:
        data = self._files(revision).get(name)
        if data is None:
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
        if body:
            self.hub.fetched.append(name)
        if name in self.hub.refused:
            return self.send(403, b"", {})  # huggingface_hub tries again for half a minute after a 500
        headers = {"ETag": f'"{hash(data) & (2**160 - 1):040x}"', "X-Repo-Commit": str(self._commit(revision))}
        return self.send(200, data, headers)

    def _json(self, value: object) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def published(tmp_path) -> dict[str, bytes]:
    """A model as it lies on the hub: both formats, and files for other programs."""
    folder = write_checkpoint(tmp_path / "published", SPEC, tokenizer=True)
    write_checkpoint(folder, SPEC, layout="bin")
    return files_of(folder) | dict.fromkeys(FOR_OTHERS, b"not needed")


@pytest.fixture
def hub(published, monkeypatch) -> Iterator[Hub]:
    hub = Hub({"main": published})
    with serving(Handler, monkeypatch, hub=hub) as hub.url:
        yield hub


def test_the_same_weights_arrive(hub, tmp_path):
    with Checkpoint.open(MODEL, cache_dir=tmp_path / "cache") as checkpoint:
        assert checkpoint.path.is_relative_to(tmp_path / "cache")
        assert checkpoint.config == SPEC.config
        for name, tensor in weights(SPEC).items():
            assert checkpoint.read(name).tobytes() == tensor.numpy().tobytes()
    assert sorted(hub.fetched) == ["config.json", "model.safetensors", "spiece.model", "tokenizer_config.json"]


@pytest.mark.parametrize(
    ("layout", "fetched"),
    [
        ("bin", ["pytorch_model.bin"]),
        (
            "bin-sharded",
            [*(f"pytorch_model-0000{i}-of-00003.bin" for i in (1, 2, 3)), "pytorch_model.bin.index.json"],
        ),
        (
            "safetensors-sharded",
            [*(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)), "model.safetensors.index.json"],
        ),
    ],
)
def test_other_layouts_arrive(hub, tmp_path, layout, fetched):
    stray = {"pytorch_model-00004-of-00004.bin": b"not named by the index"}
    hub.revisions["main"] = files_of(write_checkpoint(tmp_path / layout, SPEC, layout=layout)) | stray
    checkpoint = Checkpoint.open(MODEL, cache_dir=tmp_path / "cache")
    assert checkpoint.tensors.keys() == weights(SPEC).keys()
    assert sorted(hub.fetched) == sorted([*fetched, "config.json"])


def test_what_was_fetched_is_not_fetched_again(hub, tmp_path):
    Checkpoint.open(MODEL, cache_dir=tmp_path)
    hub.fetched.clear()
    Checkpoint.open(MODEL, cache_dir=tmp_path)
    assert hub.fetched == []


def test_a_revision(hub, tmp_path):
    hub.revisions["v2"] = files_of(write_checkpoint(tmp_path / "v2", SPEC, seed=99))
    cache = tmp_path / "cache"
    of = {revision: Checkpoint.open(MODEL, revision=revision, cache_dir=cache) for revision in ("main", "v2", "b" * 40)}
    assert digest(of["main"]) != digest(of["v2"])
    assert of["v2"].path == of["b" * 40].path


def test_a_token_opens_a_private_model(hub, tmp_path):
    hub.token = "hf_secret"
    Checkpoint.open(MODEL, token="hf_secret", cache_dir=tmp_path)


def test_a_vocabulary_is_fetched_without_the_weights(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    place = vocabulary.locate(tmp_path, MODEL)
    assert (place / "spiece.model").read_bytes() == hub.revisions["main"]["spiece.model"]
    assert "model.safetensors" not in hub.fetched


def test_a_folder_of_that_name_wins(hub, tmp_path, monkeypatch):
    write_checkpoint(tmp_path / MODEL, SPEC)
    monkeypatch.chdir(tmp_path)
    assert Checkpoint.open(MODEL).path == Path(MODEL)
    assert hub.requests == 0


def test_the_cache_serves_without_a_network(hub, tmp_path, monkeypatch):
    online = digest(Checkpoint.open(MODEL, cache_dir=tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    asked = hub.requests
    assert digest(Checkpoint.open(MODEL, cache_dir=tmp_path)) == online
    assert hub.requests == asked


@pytest.mark.parametrize("listed", [True, False])
def test_a_cache_that_holds_what_is_needed_serves_without_a_network(hub, tmp_path, monkeypatch, listed):
    """Another program has filled it; the hub has small files that it did not ask for, listed in the cache or not."""
    hub.revisions["main"] |= dict.fromkeys(("generation_config.json", "special_tokens_map.json"), b"{}")
    needed = ["config.json", "model.safetensors", "spiece.model"]
    if listed:
        huggingface_hub.snapshot_download(MODEL, allow_patterns=needed, cache_dir=tmp_path)
    else:
        for name in needed:
            huggingface_hub.hf_hub_download(MODEL, name, cache_dir=tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with Checkpoint.open(MODEL, cache_dir=tmp_path) as checkpoint:
        assert {path.name for path in checkpoint.path.iterdir()} == {*needed}
        assert checkpoint.read("shared.weight").any()


def test_a_cache_without_weights_does_not_serve(hub, tmp_path, monkeypatch):
    huggingface_hub.snapshot_download(MODEL, allow_patterns=["config.json"], cache_dir=tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"has no weights; it needs one of model\.safetensors, "):
        Checkpoint.open(MODEL, cache_dir=tmp_path)


def test_an_adapter_and_its_base(hub, tmp_path):
    """The adapter's repository holds nothing else that is needed."""
    base = write_checkpoint(tmp_path / "base", SPEC)
    product = {"lora_A": torch.ones(2, 32), "lora_B": torch.ones(32, 2)}
    tensors = {f"base_model.model.encoder.block.0.layer.0.SelfAttention.q.{k}.weight": t for k, t in product.items()}
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": str(base)}
    hub.revisions["main"] = {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": save(tensors),
        "README.md": b"not needed",
    }
    with Checkpoint.open(MODEL, cache_dir=tmp_path / "cache") as checkpoint:
        assert checkpoint.path == base
        merged = checkpoint.read("encoder.block.0.layer.0.SelfAttention.q.weight")
    assert sorted(hub.fetched) == ["adapter_config.json", "adapter_model.safetensors"]
    np.testing.assert_allclose(merged - weights(SPEC)["encoder.block.0.layer.0.SelfAttention.q.weight"].numpy(), 4)


def test_the_base_of_an_adapter_is_fetched(hub, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": MODEL, "revision": "v2"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    (adapter / "adapter_model.safetensors").write_bytes(save({"base_model.model.shared.weight": torch.ones(128, 32)}))
    hub.revisions["v2"] = files_of(write_checkpoint(tmp_path / "v2", SPEC, seed=99))
    with Checkpoint.open(adapter, cache_dir=tmp_path / "cache") as checkpoint:
        name = "encoder.final_layer_norm.weight"
        assert checkpoint.read(name).tobytes() == weights(replace(SPEC, seed=99))[name].numpy().tobytes()


def refuse(hub: Hub, *, gated: bool) -> None:
    hub.token, hub.gated = "hf_secret", gated


def without_weights(hub: Hub, *others: str) -> None:
    for name in ("model.safetensors", "pytorch_model.bin"):
        del hub.revisions["main"][name]
    hub.revisions["main"] |= dict.fromkeys(others, b"not needed")


UNFETCHABLE = {
    "no such model": (
        lambda hub: None,
        {"source": "tracks/no-such"},
        r"^there is no folder tracks/no-such here and no model tracks/no-such on the hub that this token may see",
    ),
    "private": (lambda hub: refuse(hub, gated=False), {}, r"may see; check the name, or pass a token"),
    "gated": (lambda hub: refuse(hub, gated=True), {}, r"asks for consent on the hub; give it there and pass a token"),
    "no such revision": (lambda hub: None, {"revision": "v9"}, r"has no revision v9 on the hub; check its name"),
    "no weights": (
        without_weights,
        {},
        rf"^{MODEL} has no weights; it needs one of model\.safetensors, ",
    ),
    "parts without an index": (
        lambda hub: without_weights(hub, "model-00001-of-00002.safetensors"),
        {},
        rf"^{MODEL} has no weights that can be read; model-00001-of-00002\.safetensors is of several files whose index",
    ),
    "a trainer's checkpoints": (
        lambda hub: without_weights(hub, "checkpoint-500/model.safetensors"),
        {},
        rf"^{MODEL} has no weights that can be read; checkpoint-500 is of a trainer's checkpoints",
    ),
    "no config": (lambda hub: hub.revisions["main"].pop("config.json"), {}, r"has no config\.json; give"),
    "refused file": (lambda hub: hub.refused.add("model.safetensors"), {}, r"and fetching it from the hub failed"),
    "impossible id": (lambda hub: None, {"source": "a--b/c"}, r"^there is no folder a--b/c, and it is no model's id"),
}


@pytest.mark.parametrize(("change", "arguments", "sentence"), UNFETCHABLE.values(), ids=UNFETCHABLE.keys())
def test_what_cannot_be_fetched(hub, tmp_path, change, arguments, sentence):
    change(hub)
    with pytest.raises(CheckpointError, match=sentence) as raised:
        Checkpoint.open(**({"source": MODEL} | arguments), cache_dir=tmp_path)
    assert "\n" not in str(raised.value)


def test_no_network_and_nothing_in_the_cache(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"fetching it from the hub failed .*; check the network") as raised:
        Checkpoint.open(MODEL, cache_dir=tmp_path)
    assert "\n" not in str(raised.value)


def test_the_environment_names_the_mirror(hub, tmp_path):
    """In a process of its own, because huggingface_hub reads HF_ENDPOINT when it is imported."""
    code = f"from pointsman_export.checkpoint import Checkpoint; print(*Checkpoint.open({MODEL!r}).tensors)"
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(Checkpoint.open(MODEL, cache_dir=tmp_path / "cache").tensors)
    assert (tmp_path / "home" / "hub").is_dir()

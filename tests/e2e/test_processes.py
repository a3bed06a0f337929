"""What is loaded goes to other processes as where it came from; and what ids and paths may look like."""

import multiprocessing
import os
import pickle
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from checkpoints import reference
from parity.decoding_reference import Inputs, theirs
from places import ROOT
from pointsman import DecodingOptions, Infiller, SwitchModel, Tokenizer
from pointsman.bundle import read_manifest
from pointsman.errors import OptionsError, TextError
from pointsman_export.bundle import export_bundle

TEXT = "The <extra_id_0> waits by <extra_id_1> box."
OPTIONS = DecodingOptions(max_new_tokens=12)


@pytest.fixture(scope="module")
def infiller(tiny_bundle):
    return Infiller.load(tiny_bundle, device="cpu", threads=1)


def test_what_was_loaded_is_pickled_as_its_bundle(tiny_bundle, infiller, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_bundle.parent)
    relative = Infiller.load(tiny_bundle.name, device="cpu", threads=1)
    pickled = pickle.dumps(relative)
    assert len(pickled) < (tiny_bundle / "variants" / "float32" / "weights.bin").stat().st_size / 2
    monkeypatch.chdir(tmp_path)
    copy = pickle.loads(pickled)
    assert copy.infill(TEXT) == infiller.infill(TEXT)
    assert copy.model.choice.variant == infiller.model.choice.variant
    model = pickle.loads(pickle.dumps(infiller.model))
    assert model.generate([[5, 6, 1]], OPTIONS) == infiller.model.generate([[5, 6, 1]], OPTIONS)
    tokenizer = pickle.loads(pickle.dumps(infiller.tokenizer))
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.encode(TEXT) == infiller.tokenizer.encode(TEXT)


def test_other_processes_fill_alike(infiller):
    """Started anew, as threads of an engine do not survive a fork."""
    texts = [TEXT, "<extra_id_4>", "My sister <extra_id_0>."]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(infiller.infill, texts) == [infiller.infill(text) for text in texts]


def test_threads_fill_alike(infiller):
    texts = [TEXT, "<extra_id_4>", "My sister <extra_id_0>.", "Nobody <extra_id_0> at <extra_id_1>."] * 4
    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(infiller.infill, texts)] == [infiller.infill(text) for text in texts]


def test_a_model_that_was_put_together_by_hand_is_not_pickled(infiller):
    model = SwitchModel(infiller.model.manifest, infiller.model.choice, infiller.model.backend)
    with pytest.raises(OptionsError) as raised:
        pickle.dumps(model)
    assert str(raised.value) == (
        "this model was not loaded from a bundle, so it cannot be pickled; use SwitchModel.load"
    )


# Padding


@pytest.mark.parametrize("search", [{}, {"num_beams": 3}], ids=str)
def test_padded_ids_are_those_of_transformers_with_a_mask(infiller, tiny_checkpoint, search):
    options = DecodingOptions(max_new_tokens=12, **search)
    inputs = Inputs.random([4, 11, 7], seed=5)
    expected = theirs(reference(tiny_checkpoint), inputs, options).token_ids
    rows = inputs.input_ids.numpy()
    assert (rows == 0).any()
    for batch in (rows, rows.tolist(), [np.pad(row, (0, 5)) for row in rows]):
        generations = infiller.model.generate(batch, options)
        assert [[one.token_ids for one in of_input] for of_input in generations] == expected


def test_padding_in_front_and_between_is_not_attended_to(infiller, tiny_checkpoint):
    ids = torch.tensor([[0, 0, 17, 5, 0, 93, 60, 1], [8, 0, 44, 1, 0, 0, 0, 0]])
    network = reference(tiny_checkpoint)
    with torch.no_grad():
        rows = network.generate(ids, attention_mask=(ids != 0).long(), max_new_tokens=12, do_sample=False)[:, 1:]
    for (generation,), row in zip(infiller.model.generate(ids.numpy(), OPTIONS), rows.tolist(), strict=True):
        assert [*generation.token_ids] == row[: len(generation.token_ids)]


def test_nothing_but_padding_is_no_input(infiller):
    with pytest.raises(TextError) as raised:
        infiller.model.generate([[5, 1], [0, 0, 0]], OPTIONS)
    assert str(raised.value) == "input 1 is nothing but padding; give its tokens"


# Paths


@pytest.fixture
def latin(tmp_path) -> Path:
    """A folder whose name was written in Latin-1, as file systems allow."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system has names of text alone")
    return folder


def run(command: str, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([Path(sys.executable).with_name(command), *arguments], capture_output=True, check=False)


def test_a_checkpoint_in_a_path_that_is_no_text(exports, tmp_path, latin):
    checkpoint = shutil.copytree(exports.checkpoint("tied"), latin / latin.name)
    manifest = export_bundle(checkpoint, tmp_path / "bundle", forms=["fused"])
    assert manifest.source.name == "caf\\xe9"
    assert read_manifest(tmp_path / "bundle") == manifest


def test_a_bundle_in_a_path_that_is_no_text(tiny_bundle, tiny_checkpoint, latin):
    """ONNX Runtime opens none."""
    bundle = shutil.copytree(tiny_bundle, latin / "bundle")
    done = run("pointsman", "infill", bundle, TEXT)
    assert done.returncode == 2
    assert re.fullmatch(
        rb"pointsman: \S+/caf\\xe9/\S+\.onnx is a path of bytes that are no UTF-8; give the bundle another\n",
        done.stderr,
    )
    done = run("pointsman", "inspect", bundle)
    assert (done.returncode, done.stderr) == (0, b"")
    done = run("pointsman-export", "bundle", tiny_checkpoint, "-o", latin / "new")
    assert done.returncode == 2
    assert re.fullmatch(
        rb"pointsman-export: \S+/caf\\xe9/new is a path of bytes that are no UTF-8; choose another output folder\n",
        done.stderr,
    )
    assert {path.name for path in latin.iterdir()} == {"bundle"}


@pytest.mark.parametrize("name", ["none", "caf\udce9"])
def test_what_is_not_there_in_such_a_path(latin, name):
    for command in (
        ["pointsman", "infill", latin / name, TEXT],
        ["pointsman-export", "bundle", latin / name, "-o", "b"],
    ):
        done = run(*command)
        assert (done.returncode, done.stderr.count(b"\n")) == (2, 1), done.stderr


# What Git leaves


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"


@pytest.mark.parametrize("file", ["manifest.json", "variants/float32/weights.bin", "tokenizer/tokenizer.json"])
def test_a_bundle_that_git_has_not_fetched(tiny_bundle, tmp_path, file):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (bundle / file).write_bytes(POINTER)
    where = f"{bundle}/{file}" if file == "manifest.json" else f"{bundle} is damaged: {file}"
    for command in (["infill", bundle, TEXT], ["inspect", bundle]):
        done = run("pointsman", *command)
        assert done.returncode == 2
        assert done.stderr.decode() == f"pointsman: {where} is a Git LFS pointer; run `git lfs pull`\n"


def test_a_text_that_is_too_long_names_the_option(tiny_bundle):
    done = run("pointsman", "infill", tiny_bundle, "<extra_id_0>" + " train" * 3000)
    assert done.returncode == 2
    assert re.fullmatch(
        rb"pointsman: the text has \d+ tokens, and this bundle takes 2048 at most; shorten it, or export the bundle "
        rb"again \(`pointsman-export bundle --max-tokens`\)\n",
        done.stderr,
    )


# Documents


def test_the_program_of_the_page_on_processes(demo):
    (program,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/concurrency.md").read_text("utf-8"), re.M | re.S)
    (demo / "program.py").write_text(program)
    done = subprocess.run([sys.executable, "program.py"], cwd=demo, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2


def test_export_and_quantize_where_there_are_no_locks(tiny_checkpoint, tmp_path):
    """As on Windows, where the module for them is missing."""
    code = (
        "import sys; sys.modules['fcntl'] = None; from pointsman_{0}.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    for package, command in (
        ("export", ["bundle", tiny_checkpoint, "-o", "bundle", "--form", "fused"]),
        ("calib", ["quantize", "bundle", "--scheme", "int8"]),
    ):
        line = [sys.executable, "-c", code.format(package), *map(str, command)]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert list(read_manifest(tmp_path / "bundle").variants) == ["fused-float32", "fused-int8"]
    assert {path.name for path in tmp_path.iterdir()} == {"bundle"}
    assert {path.name for path in (tmp_path / "bundle" / "variants").iterdir()} == {"float32", "int8"}

"""Every way a checkpoint can be unusable, and the sentence that says so."""

import json
import pickle
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from checkpoints import CHECKPOINTS, write_checkpoint
from pointsman.errors import CheckpointError
from pointsman_export.checkpoint import Checkpoint, check_finite

SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"
SAFETENSORS_INDEX, BIN_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"
SHARD, BIN_SHARD = "model-00002-of-00003.safetensors", "pytorch_model-00002-of-00003.bin"
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"


def write(name: str, data: bytes):
    return lambda folder: (folder / name).write_bytes(data)


def truncate(name: str, keep: float):
    def break_it(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * keep)])

    return break_it


def remove(*names: str):
    return lambda folder: [(folder / name).unlink() for name in names]


def in_json(name: str, change):
    def break_it(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        change(value)
        (folder / name).write_text(json.dumps(value))

    return break_it


def in_header(change):
    """Change a tensor's entry in the header of a safetensors file; the lengths stay right."""

    def break_it(folder: Path) -> None:
        data = (folder / SAFETENSORS).read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        (folder / SAFETENSORS).write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])

    return break_it


def safetensors(tensors: dict[str, torch.Tensor]):
    return lambda folder: save_file(tensors, folder / SAFETENSORS)


def torch_file(value: object, **options):
    return lambda folder: torch.save(value, folder / BIN, **options)


MIXED = {"a": torch.zeros(2, dtype=torch.float64), "b": torch.zeros(2), "c": torch.zeros(2, dtype=torch.int8)}

FOLDERS = {
    "no config": ("safetensors", remove("config.json"), r"has no config\.json; give the folder"),
    "broken config": ("safetensors", write("config.json", b'{"d_model":'), r"config\.json is not valid JSON \(.*\)"),
    "config no UTF-8": ("safetensors", write("config.json", b"\xff\xfe{}"), r"config\.json is not valid JSON"),
    "config a list": ("safetensors", write("config.json", b"[]"), r"config\.json does not hold a JSON object"),
    "T5": (
        "safetensors",
        in_json("config.json", lambda config: config.update(model_type="t5")),
        r"config\.json describes a model of type 't5'; Pointsman exports 'switch_transformers' alone",
    ),
    "no weights": ("safetensors", remove(SAFETENSORS), r"has no weights; it needs one of model\.safetensors, "),
    "truncated data": ("safetensors", truncate(SAFETENSORS, 0.9), r"safetensors is truncated: it has \d+ bytes of \d+"),
    "truncated header": ("safetensors", truncate(SAFETENSORS, 0.001), r"truncated or not a safetensors file"),
    "empty": ("safetensors", write(SAFETENSORS, b""), r"truncated or not a safetensors file"),
    "HTML": ("safetensors", write(SAFETENSORS, b"<!DOCTYPE html>" * 9), r"truncated or not a safetensors file"),
    "LFS pointer": ("safetensors", write(SAFETENSORS, LFS_POINTER), r"is a Git LFS pointer.*; run `git lfs pull`"),
    "header no JSON": (
        "safetensors",
        write(SAFETENSORS, (4).to_bytes(8, "little") + b"{{{{"),
        r"damaged safetensors header",
    ),
    "header a list": (
        "safetensors",
        write(SAFETENSORS, (2).to_bytes(8, "little") + b"[]"),
        r"damaged safetensors head",
    ),
    "offsets of another shape": (
        "safetensors",
        in_header(lambda header: header["shared.weight"].update(shape=[4, 4])),
        r"damaged header entry for shared\.weight",
    ),
    "no offsets": (
        "safetensors",
        in_header(lambda header: header["shared.weight"].pop("data_offsets")),
        r"damaged header entry for shared\.weight",
    ),
    "dtypes": ("safetensors", safetensors(MIXED), r"not supported: a \(F64\), c \(I8\); save the checkpoint as"),
    "truncated shard": ("safetensors-sharded", truncate(SHARD, 0.9), rf"{SHARD} is truncated"),
    "absent shard": (
        "safetensors-sharded",
        remove(SHARD, "model-00003-of-00003.safetensors"),
        rf"names files that are not there: {SHARD}, model-00003-of-00003\.safetensors; fetch them",
    ),
    "tensor not in its shard": (
        "safetensors-sharded",
        in_json(SAFETENSORS_INDEX, lambda index: index["weight_map"].update({"ghost.weight": SHARD})),
        rf"names tensors that are not there: ghost\.weight in {SHARD}; fetch",
    ),
    "index without map": ("safetensors-sharded", write(SAFETENSORS_INDEX, b"{}"), r"has no 'weight_map'"),
    "index broken": ("safetensors-sharded", write(SAFETENSORS_INDEX, b"{"), r"index\.json is not valid JSON"),
    "index leading elsewhere": (
        "safetensors-sharded",
        in_json(SAFETENSORS_INDEX, lambda index: index["weight_map"].update(a="../../etc/passwd")),
        r"names files outside its folder: \.\./\.\./etc/passwd; mend the index",
    ),
    "bin truncated": ("bin", truncate(BIN, 0.9), r"pytorch_model\.bin is truncated or damaged; fetch"),
    "bin LFS pointer": ("bin", write(BIN, LFS_POINTER), r"is a Git LFS pointer"),
    "bin empty": ("bin", write(BIN, b""), r"is not a zip archive as torch\.save has written since PyTorch 1\.6"),
    "bin of old torch": ("bin", torch_file({}, _use_new_zipfile_serialization=False), r"is not a zip archive"),
    "bin with code": ("bin", torch_file({"a": pickle.Pickler}), r"holds something else than tensors"),
    "bin with numbers": ("bin", torch_file({"a": 1}), r"holds something else than tensors; save its state_dict alone"),
    "bin with a list": ("bin", torch_file([torch.zeros(1)]), r"holds something else than tensors"),
    "bin dtypes": ("bin", torch_file(MIXED), r"not supported: a \(float64\), c \(int8\)"),
    "bin absent shard": ("bin-sharded", remove(BIN_SHARD), rf"names files that are not there: {BIN_SHARD}; fetch"),
    "bin truncated shard": ("bin-sharded", truncate(BIN_SHARD, 0.5), rf"{BIN_SHARD} is truncated or damaged"),
}


@pytest.mark.parametrize(("layout", "break_it", "sentence"), FOLDERS.values(), ids=FOLDERS.keys())
def test_a_folder_that_cannot_be_used(tmp_path, layout, break_it, sentence):
    folder = write_checkpoint(tmp_path, CHECKPOINTS["tied"], layout=layout)
    Checkpoint.open(folder)
    break_it(folder)
    with pytest.raises(CheckpointError) as raised:
        Checkpoint.open(folder)
    assert re.search(sentence, str(raised.value))
    assert "\n" not in str(raised.value)
    assert str(folder) in str(raised.value)


def test_a_file_is_no_checkpoint(tmp_path):
    file = write_checkpoint(tmp_path, CHECKPOINTS["tied"]) / SAFETENSORS
    with pytest.raises(CheckpointError, match=r"is a file; give the folder that holds it and config\.json"):
        Checkpoint.open(file)


@pytest.mark.parametrize("source", [Path("no/such"), "/no/such/folder", "./nothing", "a/b/c", "~/models"])
def test_what_can_be_no_model_id_is_not_looked_for_on_the_hub(source, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"^there is no folder .*; give a checkpoint's folder or a model's id"):
        Checkpoint.open(source)


def test_a_tensor_that_is_not_there(tmp_path):
    with (
        Checkpoint.open(write_checkpoint(tmp_path, CHECKPOINTS["tied"])) as checkpoint,
        pytest.raises(CheckpointError, match=r"has no tensor ghost\.weight"),
    ):
        checkpoint.read("ghost.weight")


@pytest.mark.parametrize("layout", ["safetensors", "bin"])
def test_a_file_that_shrinks_after_opening(tmp_path, layout):
    folder = write_checkpoint(tmp_path, CHECKPOINTS["tied"], layout=layout)
    (file,) = (path for path in folder.iterdir() if path.suffix in {".bin", ".safetensors"})
    with Checkpoint.open(folder) as checkpoint:
        file.write_bytes(b"")
        with pytest.raises(CheckpointError, match=r"has ended \d+ bytes early; fetch the file again"):
            checkpoint.read("shared.weight")


def test_a_file_that_goes_away_after_opening(tmp_path):
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path, CHECKPOINTS["tied"]))
    (tmp_path / SAFETENSORS).unlink()
    with pytest.raises(CheckpointError, match=r"cannot be read \(No such file or directory\)"):
        checkpoint.read("shared.weight")


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(dtype, bad):
    array = np.full((3, 5), np.finfo(np.float16).max, np.float32).astype(dtype)
    check_finite(array, "a.weight")
    array[1, 2] = array[0, 0] = bad
    with pytest.raises(CheckpointError, match=r"^a\.weight holds 2 values of 15 that are NaN or Inf; use"):
        check_finite(array, "a.weight")

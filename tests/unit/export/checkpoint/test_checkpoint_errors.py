"""Every way a checkpoint can be unusable, and the sentence that says so."""

import errno
import json
import os
import pickle
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

from checkpoints import CHECKPOINTS, write_checkpoint, write_tensors
from pointsman.errors import CheckpointError
from pointsman_export.checkpoint import NUMPY_DTYPES, Checkpoint, check_finite

SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"
SAFETENSORS_INDEX, BIN_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"
SHARD, BIN_SHARD = "model-00002-of-00003.safetensors", "pytorch_model-00002-of-00003.bin"
UNREADABLE = r"model\.safetensors cannot be read \("
DEEP = b"[" * 100_000
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


def places(*offsets: list[object]):
    """A safetensors file of 16 bytes of data, with a tensor of two numbers at each of the places."""
    header = {f"t{n}": {"dtype": "F32", "shape": [2], "data_offsets": place} for n, place in enumerate(offsets)}
    text = json.dumps(header).encode()
    return write(SAFETENSORS, len(text).to_bytes(8, "little") + text + bytes(16))


def in_place_of(name: str, make):
    def break_it(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return break_it


def shard_name(name: object):
    return in_json(SAFETENSORS_INDEX, lambda index: index["weight_map"].update({"shared.weight": name}))


def torch_file(value: object, **options):
    return lambda folder: torch.save(value, folder / BIN, **options)


FOLDERS = {
    "no config": ("safetensors", remove("config.json"), r"has no config\.json; give the folder"),
    "broken config": ("safetensors", write("config.json", b'{"d_model":'), r"config\.json is not valid JSON \(.*\)"),
    "config no UTF-8": ("safetensors", write("config.json", b"\xff\xfe{}"), r"config\.json is not valid JSON"),
    "config LFS pointer": (
        "safetensors",
        write("config.json", LFS_POINTER),
        r"config\.json is a Git LFS pointer; run `",
    ),
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
    "overlapping tensors": ("safetensors", places([0, 8], [4, 12]), r"has tensors that overlap at byte \d+; fetch"),
    "tensors in one place": ("safetensors", places([0, 8], [0, 8], [8, 16]), r"has tensors that overlap at byte \d+; "),
    "a gap before a tensor": ("safetensors", places([8, 16]), r"has tensors that leave a gap at byte \d+; fetch the"),
    "bytes after the last": ("safetensors", places([0, 8]), r"has 8 bytes after its last tensor; fetch the file again"),
    "a broken offset": ("safetensors", places([0.0, 8.0], [8, 16]), r"has a damaged header entry for t0; fetch the"),
    "an offset that is no number": ("safetensors", places([False, 8], [8, 16]), r"damaged header entry for t0"),
    "a broken size": (
        "safetensors",
        in_header(lambda header: header["shared.weight"].update(shape=[128.0, 32])),
        r"damaged header entry for shared\.weight",
    ),
    "an entry that is none": (
        "safetensors",
        in_header(lambda header: header.update({"shared.weight": 1})),
        r"damaged header entry for shared\.weight",
    ),
    "deep header": (
        "safetensors",
        write(SAFETENSORS, len(DEEP).to_bytes(8, "little") + DEEP),
        r"has a damaged safetensors header",
    ),
    "deep config": (
        "safetensors",
        write("config.json", DEEP),
        r"config\.json is not valid JSON \(.*\); fetch",
    ),
    "deep index": ("safetensors-sharded", write(SAFETENSORS_INDEX, DEEP), r"index\.json is not valid JSON \("),
    "weights that are a folder": ("safetensors", in_place_of(SAFETENSORS, Path.mkdir), UNREADABLE + r"Is a directory"),
    "weights that are a broken link": (
        "safetensors",
        in_place_of(SAFETENSORS, lambda path: path.symlink_to("nowhere")),
        UNREADABLE + r"No such file or directory",
    ),
    "bin that is a folder": (
        "bin",
        in_place_of(BIN, Path.mkdir),
        r"\.bin cannot be read \(Is a directory",
    ),
    "bin that is a broken link": (
        "bin",
        in_place_of(BIN, lambda path: path.symlink_to("nowhere")),
        r"pytorch_model\.bin cannot be read \(No such file or directory\); check the path",
    ),
    **{
        f"shard named {json.dumps(name)}": (
            "safetensors-sharded",
            shard_name(name),
            rf"names files that are no \.safetensors files: {re.escape(json.dumps(name))}; mend the index",
        )
        for name in (3, None, ["a"], "", "config.json", BIN)
    },
    "shard of a name too long": (
        "safetensors-sharded",
        shard_name("n" * 300 + ".safetensors"),
        r"cannot be read \(File name too long\); check the path and its permissions",
    ),
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
        shard_name("../../etc/a.safetensors"),
        r'names files outside its folder: "\.\./\.\./etc/a\.safetensors"; mend the index',
    ),
    "bin truncated": ("bin", truncate(BIN, 0.9), r"pytorch_model\.bin is truncated or damaged; fetch"),
    "bin LFS pointer": ("bin", write(BIN, LFS_POINTER), r"is a Git LFS pointer"),
    "bin empty": ("bin", write(BIN, b""), r"is not a zip archive as torch\.save has written since PyTorch 1\.6"),
    "bin of old torch": ("bin", torch_file({}, _use_new_zipfile_serialization=False), r"is not a zip archive"),
    "bin with code": ("bin", torch_file({"a": pickle.Pickler}), r"holds something else than tensors"),
    "bin with numbers": ("bin", torch_file({"a": 1}), r"holds something else than tensors; save its state_dict alone"),
    "bin with a list": ("bin", torch_file([torch.zeros(1)]), r"holds something else than tensors"),
    "bin with a numbered tensor": ("bin", torch_file({3: torch.zeros(1)}), r"holds something else than tensors"),
    "bin with a sparse tensor": (
        "bin",
        torch_file({"a": torch.eye(3).to_sparse()}),
        r"has no plain values of a; save its state_dict with dense tensors on the CPU$",
    ),
    "bin with a tensor of no values": (
        "bin",
        torch_file({"a": torch.zeros(3, device="meta")}),
        r"plain values of a;",
    ),
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


@pytest.mark.parametrize("name", ["", "config.json", SAFETENSORS])
def test_what_may_not_be_read(tmp_path, monkeypatch, name):
    folder = write_checkpoint(tmp_path, CHECKPOINTS["tied"])
    refuse(monkeypatch, folder / name)
    with pytest.raises(CheckpointError) as raised:
        Checkpoint.open(folder)
    assert str(raised.value).startswith(f"{folder / name} cannot be read (Permission denied); ")


def refuse(monkeypatch, refused: Path) -> None:
    """Refuse to open a file or list a folder, as to a user without permission: to root the kernel allows both."""

    def refusing(method):
        def call(self, *arguments, **options):
            if self == refused:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
            return method(self, *arguments, **options)

        return call

    for method in ("open", "iterdir"):
        monkeypatch.setattr(Path, method, refusing(getattr(Path, method)))


@pytest.mark.parametrize("source", ["n" * 300, "/" + "n/" * 3000])
def test_a_path_that_is_too_long(source):
    with pytest.raises(CheckpointError, match=r"cannot be read \(File name too long\); check the path"):
        Checkpoint.open(source)


def test_any_flipped_bit_in_a_pickle_is_answered_with_one_line(tmp_path):
    """Unless it changes a name or a number, and all that is listed can still be read."""
    tensors = {"a.weight": torch.zeros(4, 4), "b.weight": torch.zeros(4, dtype=torch.bfloat16)}
    (tmp_path / "config.json").write_text("{}")
    torch.save(tensors, tmp_path / BIN)
    data = (tmp_path / BIN).read_bytes()
    start = data.index(b"\x80\x02}")
    refusals = []
    for bit in range(start * 8, data.index(b"PK", start) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / BIN).write_bytes(flipped)
        refusals.append(refusal(tmp_path))
    assert not any("\n" in sentence for sentence in refusals)
    assert sum(map(bool, refusals)) > 1000


def refusal(folder: Path) -> str:
    """Why a checkpoint cannot be opened and read; empty where it can."""
    try:
        with Checkpoint.open(folder) as checkpoint:
            for name, info in checkpoint.tensors.items():
                if info.dtype in NUMPY_DTYPES:
                    checkpoint.read(name)
    except CheckpointError as error:
        return str(error)
    return ""


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


LEFT = {
    "model-00001-of-00002.safetensors": "several files whose index is missing; put model.safetensors.index.json",
    "pytorch_model-00002-of-00002.bin": "several files whose index is missing; put pytorch_model.bin.index.json",
    "pytorch_model_fsdp_0": "FSDP's shards",
    "__0_0.distcp": "FSDP's shards",
    "global_step500": "DeepSpeed's shards; make weights of them with the zero_to_fp32.py",
    "checkpoint-500": "a trainer's checkpoints; give the folder of one",
    "adapter_model.safetensors": "an adapter without its adapter_config.json",
}


@pytest.mark.parametrize("config", [True, False])
@pytest.mark.parametrize(("file", "sentence"), LEFT.items())
def test_what_is_left_of_weights(tmp_path, file, sentence, config):
    """With and without a config: trainers write one or not."""
    (tmp_path / file).touch()
    if config:
        (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError) as raised:
        Checkpoint.open(tmp_path)
    assert f"{tmp_path} has no weights that can be read; {file} is of {sentence}" in str(raised.value)


def test_a_count_of_bytes_that_the_tensors_do_not_reach(tmp_path):
    folder = write_checkpoint(tmp_path, CHECKPOINTS["tied"], layout="safetensors-sharded")
    index = json.loads((folder / SAFETENSORS_INDEX).read_text())
    for more, opens in ((-4, True), (0, True), (4, False)):
        metadata = {"total_size": index["metadata"]["total_size"] + more}
        (folder / SAFETENSORS_INDEX).write_text(json.dumps(index | {"metadata": metadata}))
        if opens:
            Checkpoint.open(folder)
        else:
            with pytest.raises(CheckpointError, match=r"of tensors and names [\d,]+: some are missing"):
                Checkpoint.open(folder)


def test_a_copy_of_another_kind_of_number_is_no_copy(tmp_path):
    tensors = {"one": torch.ones(3, 4), "other": torch.ones(3, 4, dtype=torch.int8)}
    write_tensors(tmp_path, tensors, "safetensors")
    (tmp_path / "config.json").write_text("{}")
    with Checkpoint.open(tmp_path) as checkpoint:
        assert not checkpoint.same_values("one", "other")

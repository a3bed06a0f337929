"""Reading checkpoints: every layout and precision gives back what was written, in bounded memory."""

import gc
import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

from checkpoints import CHECKPOINTS, EMBEDDING_NAMES, weights, write_checkpoint, write_tensors
from pointsman_export.checkpoint import Checkpoint, TensorInfo
from pointsman_export.checkpoint.stored import OpenFiles

SPEC = CHECKPOINTS["tied"]
LAYOUTS = ("safetensors", "safetensors-sharded", "bin", "bin-sharded")
PRECISIONS = ("float32", "bfloat16", "float16", "bfloat16 with float32 routers")
NUMPY_DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
MIB = 1 << 20


def written(folder: Path, tensors: dict[str, torch.Tensor], layout="safetensors") -> Path:
    write_tensors(folder, tensors, layout)
    (folder / "config.json").write_text(json.dumps({"model_type": "switch_transformers"}))
    return folder


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_tensor_comes_back_bit_for_bit(tmp_path, layout, precision):
    spec = replace(SPEC, layout=layout, precision=precision)
    expected = weights(spec)
    with Checkpoint.open(write_checkpoint(tmp_path, spec)) as checkpoint:
        assert checkpoint.path == tmp_path
        assert checkpoint.config == spec.config
        assert checkpoint.tensors.keys() == expected.keys()
        for name, tensor in expected.items():
            dtype = str(tensor.dtype).removeprefix("torch.")
            assert checkpoint.tensors[name] == TensorInfo(name, tuple(tensor.shape), dtype)
            array = checkpoint.read(name)
            assert array.dtype == NUMPY_DTYPES[dtype]
            assert array.shape == tuple(tensor.shape)
            assert array.tobytes() == tensor.view(torch.uint8).numpy().tobytes()


def test_what_is_read_is_the_callers_own(tmp_path):
    with Checkpoint.open(write_checkpoint(tmp_path, SPEC)) as checkpoint:
        first = checkpoint.read("shared.weight")
        first[:] = 0
        assert checkpoint.read("shared.weight").any()


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda t: t.t(), id="transposed"),
        pytest.param(lambda t: t[3:7], id="rows"),
        pytest.param(lambda t: t[:, 2:9:3], id="every third column"),
        pytest.param(lambda t: t[5], id="vector"),
        pytest.param(lambda t: t[:0], id="empty"),
        pytest.param(lambda t: t[2, 3], id="scalar"),
        pytest.param(lambda t: t[:1].expand(4, -1), id="expanded"),
        pytest.param(lambda t: t.view(4, 5, 12).permute(2, 0, 1), id="permuted"),
    ],
)
def test_views_of_a_storage_are_read_as_they_look(tmp_path, view):
    whole = torch.randn(20, 12, generator=torch.Generator().manual_seed(0))
    tensors = {"before": torch.ones(3), "whole": whole, "view": view(whole)}
    with Checkpoint.open(written(tmp_path, tensors, "bin")) as checkpoint:
        np.testing.assert_array_equal(checkpoint.read("view"), view(whole).numpy())
        np.testing.assert_array_equal(checkpoint.read("whole"), whole.numpy())


def test_tied_names_share_one_storage_in_a_bin_file(tmp_path):
    folder = write_checkpoint(tmp_path, SPEC, layout="bin", embedding_names=EMBEDDING_NAMES)
    once = write_checkpoint(tmp_path / "once", SPEC, layout="bin")
    embedding = weights(SPEC)["shared.weight"]
    sizes = [(path / "pytorch_model.bin").stat().st_size for path in (folder, once)]
    assert sizes[0] - sizes[1] < embedding.nbytes
    with Checkpoint.open(folder) as checkpoint:
        for name in EMBEDDING_NAMES:
            np.testing.assert_array_equal(checkpoint.read(name), embedding.numpy())


@pytest.mark.parametrize("layout", ["safetensors", "bin"])
@pytest.mark.parametrize("rows", [1, 7, 60_000])
def test_same_values_compares_numbers_and_not_places(tmp_path, layout, rows):
    one = torch.randn(rows, 40, generator=torch.Generator().manual_seed(1)).bfloat16()
    last_differs = one.clone()
    last_differs[-1, -1] += 1
    tensors = {"one": one, "copy": one.clone(), "wider": one.float(), "other": last_differs, "tail": one[1:]}
    with Checkpoint.open(written(tmp_path, tensors, layout)) as checkpoint:
        same = {name: checkpoint.same_values("one", name) for name in tensors}
    assert same == {"one": True, "copy": True, "wider": True, "other": False, "tail": False}


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (("model.safetensors", "pytorch_model.bin"), "model.safetensors"),
        (("model.safetensors.index.json", "pytorch_model.bin"), "model.safetensors.index.json"),
        (("model.safetensors", "model.safetensors.index.json"), "model.safetensors"),
        (("pytorch_model.bin", "pytorch_model.bin.index.json"), "pytorch_model.bin"),
    ],
)
def test_the_preferred_layout_is_read(tmp_path, names, kept):
    """Each layout holds a tensor of its own name, so that what was read shows which one it was."""
    for name in names:
        stem, suffix = name.removesuffix(".index.json").split(".")
        if name.endswith(".index.json"):
            shard = f"{stem}-00001-of-00001.{suffix}"
            part = tmp_path / "part"
            write_tensors(part, {name: torch.ones(1)}, "bin" if suffix == "bin" else "safetensors")
            (part / f"{stem}.{suffix}").rename(tmp_path / shard)
            (tmp_path / name).write_text(json.dumps({"weight_map": {name: shard}}))
        else:
            write_tensors(tmp_path, {name: torch.ones(1)}, "bin" if suffix == "bin" else "safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert list(Checkpoint.open(tmp_path).tensors) == [kept]


@pytest.mark.parametrize("layout", ["safetensors", "bin"])
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_resident_memory_does_not_grow_with_what_was_read(tmp_path, layout):
    tensors = {f"{i}.weight": torch.full((1024, 1024), float(i)) for i in range(75)}
    written(tmp_path, tensors, layout)
    del tensors
    gc.collect()
    before = resident_bytes()
    highest = 0
    with Checkpoint.open(tmp_path) as checkpoint:
        for name in checkpoint.tensors:
            assert checkpoint.read(name).sum() == MIB * float(name.split(".")[0])  # touches every page
            highest = max(highest, resident_bytes())
    assert highest - before < 30 * MIB, f"{(highest - before) / MIB:.0f} MiB for 300 MiB read"


def test_few_files_are_open_at_a_time_and_none_after_closing(tmp_path):
    for i in range(20):
        (tmp_path / str(i)).write_bytes(bytes([i]) * 10)
    files = OpenFiles(limit=3)
    for i in [*range(20), 0, 19]:
        assert files.read(tmp_path / str(i), 4, 2).tolist() == [i, i]
        assert len(files) <= 3
    files.close()
    assert len(files) == 0


def test_threads_read_the_same_file_side_by_side(tmp_path):
    tensors = {str(i): torch.full((64, 64), float(i)) for i in range(64)}
    wrong: list[str] = []
    with Checkpoint.open(written(tmp_path, tensors, "safetensors-sharded")) as checkpoint:

        def read_all() -> None:
            wrong.extend(name for name in checkpoint.tensors if (checkpoint.read(name) != float(name)).any())

        threads = [threading.Thread(target=read_all) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.parametrize("layout", ["safetensors-sharded", "bin-sharded"])
def test_opening_many_tensors_is_fast(tmp_path, layout):
    """A fortieth of switch-c-2048's tensors; the bound is loose, for a busy machine."""
    one = torch.zeros(2, 2)
    written(tmp_path, {f"expert_{i}.wi.weight": one.clone() for i in range(3000)}, layout)
    start = time.process_time()
    assert len(Checkpoint.open(tmp_path).tensors) == 3000
    assert time.process_time() - start < 2.0

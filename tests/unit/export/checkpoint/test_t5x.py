"""What T5X wrote is read value by value, under Hugging Face's names, in bounded memory and once."""

import pickle
import random
import shutil
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from digests import digest

from pointsman_export.architecture import derive_from
from pointsman_export.checkpoint import Checkpoint
from pointsman_export.checkpoint.stored import OpenFiles
from pointsman_export.checkpoint.t5x.chunks import Chunk, ChunkReader
from t5x_checkpoints import Zarr, random_array, unpack, write_t5x

WI = "encoder/layers_1/mlp/expert/wi/kernel"
EXPERT = "encoder.block.1.layer.1.mlp.experts.expert_{}.wi.weight"
KIB = 1024


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("t5x")
    return {name: unpack(name, folder).folder for name in ("relu_tied", "gated_untied")}


def all_values(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of a checkpoint."""
    with Checkpoint.open(folder) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint.tensors}


def stacked(folder: Path, experts: int, chunks: tuple[int, int, int], rows: int = 64, columns: int = 64) -> np.ndarray:
    """A checkpoint of one kernel of experts; return the kernel."""
    values = random_array(np.random.default_rng(0), (experts, rows, columns))
    write_t5x(folder, {WI: Zarr(values, chunks)})
    return values


# What is read


@pytest.mark.parametrize("name", ["relu_tied", "gated_untied"])
def test_architecture(originals, name):
    gated = name == "gated_untied"
    with Checkpoint.open(originals[name]) as checkpoint:
        derivation = derive_from(checkpoint)
        dtypes = {info.dtype for info in checkpoint.tensors.values()}
    found = derivation.architecture
    assert (found.vocab_size, found.d_model, found.num_heads, found.d_kv, found.d_ff) == (4096, 16, 2, 8, 32)
    assert [(stack.layers, stack.sparse_layers) for stack in (found.encoder, found.decoder)] == [(2, (1,))] * 2
    assert (found.num_experts, found.relative_buckets, found.relative_max_distance) == (4, 32, 128)
    assert (found.gated, found.activation, found.tied_head) == (gated, "gelu_tanh" if gated else "relu", not gated)
    assert (found.pad_token_id, found.eos_token_id, found.decoder_start_token_id) == (0, 1, 0)
    assert (found.layer_norm_epsilon, found.expert_capacity) == (1e-6, None)
    assert dtypes == {"bfloat16" if gated else "float32"}
    assert derivation.disagreements == derivation.unused == ()


def test_a_config_beside_it_is_heeded(tmp_path):
    folder = unpack("relu_tied", tmp_path).folder
    (folder / "config.json").write_text('{"layer_norm_epsilon": 1e-5, "num_layers": 3}')
    with Checkpoint.open(folder) as checkpoint:
        derivation = derive_from(checkpoint)
    assert derivation.architecture.layer_norm_epsilon == 1e-5
    assert derivation.disagreements == ("config.json says num_layers is 3, and the weights have 2.",)


def test_arrays_that_a_switch_model_has_no_place_for_are_named(tmp_path):
    folder = unpack("relu_tied", tmp_path).folder
    shutil.copytree(folder / "target.encoder.encoder_norm.scale", folder / "target.encoder.extra.scale")
    tree = read_and_add(folder, "extra", "target.encoder.extra.scale")
    assert "extra" in tree
    with Checkpoint.open(folder) as checkpoint:
        assert derive_from(checkpoint).unused == ("target.encoder.extra.scale",)


def read_and_add(folder: Path, key: str, name: str) -> dict:
    from t5x_checkpoints import read_tree, write_tree

    tree = read_tree(folder)
    encoder = tree["optimizer"]["target"]["encoder"]
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": name}}
    encoder[key] = {"scale": spec}
    write_tree(folder, tree)
    return encoder


def random_chunks(choice: random.Random, shape: tuple[int, ...]) -> tuple[int, ...]:
    """From one element a chunk to chunks that reach past the array."""
    return tuple(choice.randint(1, size + 2) for size in shape)


@pytest.mark.parametrize("seed", range(40))
def test_any_shape_of_chunks_reads_as_numpy_has_it(tmp_path, seed):
    choice, generator = random.Random(seed), np.random.default_rng(seed)
    ranks = {"encoder/encoder_norm/scale": 1, "token_embedder/embedding": 2, "decoder/logits_dense/kernel": 2, WI: 3}
    values, written = {}, {}
    for place, rank in (ranks | {"other/scalar": 0, "other/four": 4}).items():
        shape = tuple(choice.randint(1, 9) for _ in range(rank))
        values[place] = random_array(generator, shape, choice.choice(["float32", "bfloat16", "float16"]))
        zarr = Zarr(values[place], random_chunks(choice, shape), choice.choice(["gzip", "zlib", None]))
        written[place] = values[place] if choice.random() < 0.2 else zarr
    expected = {
        "encoder.final_layer_norm.weight": values["encoder/encoder_norm/scale"],
        "shared.weight": values["token_embedder/embedding"],
        "lm_head.weight": values["decoder/logits_dense/kernel"].T,
        "target.other.scalar": values["other/scalar"],
        "target.other.four": values["other/four"],
        **{EXPERT.format(k): expert.T for k, expert in enumerate(values[WI])},
    }
    with Checkpoint.open(write_t5x(tmp_path / "checkpoint_1", written)) as checkpoint:
        assert checkpoint.tensors.keys() == expected.keys()
        for name in choice.sample([*expected, *expected], 2 * len(expected)):
            got = checkpoint.read(name)
            info = checkpoint.tensors[name]
            assert (info.shape, info.dtype) == (expected[name].shape, expected[name].dtype.name), name
            assert got.dtype == expected[name].dtype
            np.testing.assert_array_equal(got, expected[name], err_msg=f"{name} in {written}")


def test_a_specification_of_before_tensorstore_0_1_14(tmp_path):
    """Its path stands beside the key-value store; where it was written does not matter."""
    from t5x_checkpoints import read_tree, write_tree

    folder = unpack("relu_tied", tmp_path).folder
    before = all_values(folder)
    tree = read_tree(folder)

    def old(node):
        if "driver" not in node:
            return {key: old(value) for key, value in node.items()}
        path = node["kvstore"].pop("path").rstrip("/")
        return node | {"path": f"/bucket/elsewhere/{path}", "kvstore": {"driver": "gfile"}}

    tree["optimizer"]["target"] = old(tree["optimizer"]["target"])
    write_tree(folder, tree)
    after = all_values(folder)
    assert after.keys() == before.keys()
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)


# Where it lies


def test_a_path_with_spaces_and_a_link_and_the_folder_above(tmp_path):
    above = tmp_path / "my models" / "base e8"
    original = unpack("relu_tied", tmp_path).folder
    shutil.move(original, above / original.name)
    (tmp_path / "link").symlink_to(above)
    expected = digest(Checkpoint.open(above / original.name))
    for source in (above, tmp_path / "link", tmp_path / "link" / original.name):
        with Checkpoint.open(source) as checkpoint:
            assert checkpoint.path.name == original.name
            assert digest(checkpoint) == expected
            derive_from(checkpoint)


def test_chunks_that_are_links_are_read(tmp_path):
    folder = unpack("relu_tied", tmp_path).folder
    chunk = folder / "target.token_embedder.embedding" / "0.0"
    expected = all_values(folder)["shared.weight"]
    shutil.move(chunk, tmp_path / "blob")
    chunk.symlink_to(tmp_path / "blob")
    np.testing.assert_array_equal(all_values(folder)["shared.weight"], expected)


# How it is read


def test_optimizer_state_is_never_read(originals):
    folder = originals["relu_tied"]
    expected = digest(Checkpoint.open(folder))
    (folder / "state.step").mkdir(exist_ok=True)
    (folder / "state.step" / "0").write_bytes(b"no number")
    assert digest(Checkpoint.open(folder)) == expected


@pytest.mark.parametrize("name", ["relu_tied", "gated_untied"])
def test_a_pickled_checkpoint_reads_the_same(originals, name):
    tensor = EXPERT.replace(".wi.", ".wo.").format(3)
    with Checkpoint.open(originals[name]) as checkpoint:
        checkpoint.read(tensor)
        with pickle.loads(pickle.dumps(checkpoint)) as copy:
            assert copy.tensors == checkpoint.tensors
            np.testing.assert_array_equal(copy.read(tensor), checkpoint.read(tensor))


CHUNKS = {
    "all experts in one": (32, 64, 64),
    "all experts in tiles": (32, 16, 32),
    "a few experts": (5, 64, 64),
    "one expert": (1, 64, 64),
}


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS.keys())
@pytest.mark.parametrize("orders", [1, 3], ids=["one kernel", "three kernels in turns"])
@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="bytes that were read are counted by /proc")
def test_reading_experts_in_order_reads_every_byte_once(tmp_path, chunks, orders):
    """32 experts of 16 KiB: a reader that begins a chunk anew for each would read up to 17 times as much."""
    values = random_array(np.random.default_rng(0), (32, 64, 64))
    places = [WI.replace("wi", name) for name in ("wi_0", "wi_1", "wo")][:orders]
    folder = write_t5x(tmp_path, {place: Zarr(values, chunks) for place in places})
    names = [EXPERT.replace("wi", place.split("/")[-2]) for place in places]
    size = sum(path.stat().st_size for path in folder.glob("target.*/*"))
    with Checkpoint.open(folder) as checkpoint:
        before = bytes_read()
        for expert in range(32):
            for name in names:
                np.testing.assert_array_equal(checkpoint.read(name.format(expert)), values[expert].T)
        assert bytes_read() - before < 1.1 * size + 64 * KIB


def bytes_read() -> int:
    """By this process so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.parametrize("chunks", [(64, 512, 512), (64, 128, 256), (5, 512, 512), (1, 512, 512)], ids=str)
def test_memory_holds_no_more_than_an_expert_needs(tmp_path, chunks):
    """64 experts of 1 MiB, in chunks of up to 64 MiB."""
    values = np.zeros((64, 512, 512), np.float32)
    values[:, 0, 0] = range(64)
    write_t5x(tmp_path, {WI: Zarr(values, chunks)})
    del values
    with Checkpoint.open(tmp_path) as checkpoint:
        tracemalloc.start()
        try:
            for expert in range(64):
                assert checkpoint.read(EXPERT.format(expert))[0, 0] == expert
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 4 * KIB * KIB


def test_threads_read_experts_side_by_side(tmp_path):
    values = stacked(tmp_path, 48, (48, 32, 64))
    wrong: list[int] = []
    with Checkpoint.open(tmp_path) as checkpoint:

        def read_all(seed: int) -> None:
            order = random.Random(seed).sample(range(48), 48)
            wrong.extend(k for k in order if not np.array_equal(checkpoint.read(EXPERT.format(k)), values[k].T))

        threads = [threading.Thread(target=read_all, args=[seed]) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_two_threads_that_share_the_experts_do_not_begin_anew(tmp_path):
    """One thread may be an expert ahead of the other: a stream that is too far is no use, and another one serves."""
    values = stacked(tmp_path, 64, (64, 64, 64))
    (chunk,) = tmp_path.glob("target.*/0.0.0")
    place = Chunk(chunk, values.nbytes, values.nbytes, compressed=True)
    size, files, reader = values[0].nbytes, OpenFiles(), ChunkReader()
    before = bytes_read()
    for pair in range(0, 64, 2):
        for expert in (pair + 1, pair):
            target = bytearray(size)
            reader.read(place, expert * size, memoryview(target), files)
            assert bytes(target) == values[expert].tobytes()
    files.close()
    assert bytes_read() - before < 2.2 * chunk.stat().st_size


def test_no_more_streams_are_kept_than_allowed(tmp_path):
    values = stacked(tmp_path, 8, (8, 16, 16))
    files, reader = OpenFiles(), ChunkReader(most_streams=3)
    for chunk in sorted(tmp_path.glob("target.*/[0-9]*")):
        place = Chunk(chunk, 8 * KIB, 8 * KIB, compressed=True)
        reader.read(place, 0, memoryview(bytearray(KIB)), files)
        assert len(reader) <= 3
    assert len(reader) == 3
    target = bytearray(KIB)
    reader.read(
        Chunk(next(tmp_path.glob("target.*/0.0.0")), 8 * KIB, 8 * KIB, compressed=True), KIB, memoryview(target), files
    )
    assert bytes(target) == values[1, :16, :16].tobytes(), "a chunk that was forgotten is begun anew"
    files.close()

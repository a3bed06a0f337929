"""Weights are streamed one tensor at a time into pages of one file, oriented and cast, and checked on the way."""

import hashlib
import math
import tracemalloc
import weakref
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from checkpoints import CHECKPOINTS, weights
from pointsman.bundle.writing import ALIGNMENT
from pointsman.errors import CheckpointError, OutputError
from pointsman_export.architecture import expected_tensors
from pointsman_export.checkpoint import NUMPY_DTYPES
from pointsman_export.graphs.conversion import converted
from pointsman_export.graphs.weights import Entry, plan, write_weights

SPECS = {name: CHECKPOINTS[name] for name in ("tied", "untied", "gated", "router-bias", "all-sparse", "dense-decoder")}
AHEAD = 5  # one being read, one waiting, one being converted, one converted, one being written
EXPERT = "encoder.block.1.layer.1.mlp.experts.expert_5.wi.weight"


class Reader:
    """A checkpoint in memory, which notes what is read, and how many of the arrays it gave are held at most."""

    def __init__(self, tensors):
        self.tensors = {name: tensor.numpy() for name, tensor in tensors.items()}
        self.read_names: list[str] = []
        self.most_held = 0
        self._given: list[weakref.ref] = []

    def read(self, name: str) -> np.ndarray:
        self.read_names.append(name)
        array = self.tensors[name].copy()
        self._given = [weakref.ref(array), *(given for given in self._given if given() is not None)]
        self.most_held = max(self.most_held, len(self._given))
        return array


def planned(spec, dtype="float32") -> list[Entry]:
    return plan(spec.architecture, dtype)


def written(spec, path, dtype="float32", *, progress=lambda _: None, **changes):
    reader = Reader(weights(replace(spec, precision="float32")))
    reader.tensors.update(changes)
    entries = planned(spec, dtype)
    return write_weights(entries, reader, path, progress=progress), reader, entries


def stored(file, name: str) -> np.ndarray:
    """A tensor as the bytes of the file have it."""
    place = file.tensors[name]
    dtype = place.dtype.numpy()
    data = file.path.read_bytes()[place.offset : place.offset + place.length]
    return np.frombuffer(data, dtype).reshape(tuple(place.shape))


def is_matrix(name: str) -> bool:
    """Whether it is multiplied with, and so turned around; the embedding and the bias are looked up."""
    return (
        len(name) > 0
        and name.endswith(".weight")
        and not any(part in name for part in ("layer_norm", "shared", "relative_attention_bias"))
    )


@pytest.mark.parametrize("name", SPECS)
def test_the_plan_covers_every_tensor_of_the_checkpoint_once(name):
    sources = [source for entry in planned(SPECS[name]) for source in entry.sources]
    assert sorted(sources) == sorted(expected_tensors(SPECS[name].architecture))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", SPECS)
def test_bytes_are_those_of_the_originals_turned_around(tmp_path, name, dtype):
    file, reader, entries = written(SPECS[name], tmp_path / "weights.bin", dtype)
    dtypes = {source: entry.dtype for entry in entries for source in entry.sources}
    for source, original in reader.tensors.items():
        wanted = (original.T if is_matrix(source) else original).astype(NUMPY_DTYPES[dtypes[source]])
        got = stored(file, source)
        assert got.dtype == wanted.dtype
        assert got.tobytes() == wanted.tobytes(), source


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_must_stay_exact_is_kept_in_float32(dtype):
    for entry in planned(SPECS["router-bias"], dtype):
        exact = any(part in entry.name for part in ("router", "relative_attention_bias"))
        exact |= "layer_norm" in entry.name and dtype == "float16"  # norms have the dtype of the residual stream
        assert entry.dtype == ("float32" if exact else dtype), entry.name


def test_tensors_start_on_pages_in_order_without_gaps(tmp_path):
    file, _, entries = written(SPECS["tied"], tmp_path / "weights.bin")
    end = 0
    for entry in entries:
        place = file.tensors[entry.name]
        assert place.offset == math.ceil(end / ALIGNMENT) * ALIGNMENT
        assert (place.length, tuple(place.shape)) == (entry.bytes, entry.shape)
        end = place.offset + place.length
    assert file.path.stat().st_size == end
    assert file.sha256 == hashlib.sha256(file.path.read_bytes()).hexdigest()


def test_the_experts_of_a_layer_lie_side_by_side(tmp_path):
    file, reader, _ = written(SPECS["tied"], tmp_path / "weights.bin")
    layer = "decoder.block.3.layer.2.mlp.experts"
    together = stored(file, f"{layer}.wo")
    assert together.shape == (8, 48, 32)
    for number in range(8):
        alone = stored(file, f"{layer}.expert_{number}.wo.weight")
        np.testing.assert_array_equal(alone, reader.tensors[f"{layer}.expert_{number}.wo.weight"].T)
        np.testing.assert_array_equal(alone, together[number])


def test_tensors_are_read_in_order_a_few_ahead_and_let_go(tmp_path):
    done: list[int] = []
    _, reader, entries = written(SPECS["tied"], tmp_path / "weights.bin", progress=done.append)
    assert reader.read_names == [source for entry in entries for source in entry.sources]
    assert reader.most_held <= AHEAD
    assert sum(done) == sum(entry.bytes for entry in entries)
    assert len(done) == len(reader.read_names)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("transposed", [True, False])
def test_a_tensor_is_copied_once(dtype, transposed):
    size = 3000
    array = np.ones((size, size), np.float32)
    entry = Entry("weight", ("weight",), transposed, array.shape, dtype)
    tracemalloc.start()
    try:
        converted(array, entry, "weight")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    checked = 5 << 20  # a few megabytes at a time
    assert peak < entry.bytes + checked


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [EXPERT, "shared.weight", "decoder.final_layer_norm.weight"])
def test_a_weight_that_is_no_number_is_named(tmp_path, name, bad):
    spoilt = weights(SPECS["tied"])[name].numpy().copy()
    spoilt.flat[3] = bad
    with pytest.raises(CheckpointError) as raised:
        written(SPECS["tied"], tmp_path / "weights.bin", **{name: spoilt})
    assert str(raised.value) == (
        f"{name} holds 1 values of {spoilt.size} that are NaN or Inf; use an intact checkpoint"
    )


def test_a_weight_past_float16_is_named_with_the_dtype(tmp_path):
    spoilt = weights(SPECS["tied"])[EXPERT].numpy().copy()
    spoilt.flat[:2] = 7e4, -1e30
    with pytest.raises(CheckpointError) as raised:
        written(SPECS["tied"], tmp_path / "weights.bin", "float16", **{EXPERT: spoilt})
    assert str(raised.value) == (
        f"{EXPERT} has 2 values of {spoilt.size} that float16 cannot hold; export in float32 or bfloat16 (`dtype`)"
    )


def test_a_weight_of_two_bytes_past_float16_is_named_too(tmp_path):
    spoilt = weights(SPECS["tied"])[EXPERT].numpy().astype(ml_dtypes.bfloat16)
    spoilt.flat[0] = 1e30
    with pytest.raises(CheckpointError, match=r" has 1 values of 1536 that float16 cannot hold; export in"):
        written(SPECS["tied"], tmp_path / "weights.bin", "float16", **{EXPERT: spoilt})


def test_a_weight_that_would_round_past_bfloat16_is_named_with_the_dtype(tmp_path):
    spoilt = weights(SPECS["tied"])[EXPERT].numpy().copy()
    spoilt.flat[0] = np.finfo(np.float32).max
    with pytest.raises(CheckpointError, match=r" that bfloat16 cannot hold; export in float32 \(`dtype`\)$"):
        written(SPECS["tied"], tmp_path / "weights.bin", "bfloat16", **{EXPERT: spoilt})


def test_bfloat16_takes_what_float16_does_not(tmp_path):
    spoilt = weights(SPECS["tied"])[EXPERT].numpy().copy()
    spoilt.flat[:2] = 7e4, -1e30
    file, _, _ = written(SPECS["tied"], tmp_path / "weights.bin", "bfloat16", **{EXPERT: spoilt})
    np.testing.assert_array_equal(stored(file, EXPERT), spoilt.T.astype(ml_dtypes.bfloat16))


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(OutputError) as raised:
        written(SPECS["tied"], tmp_path / "absent" / "weights.bin")
    assert str(raised.value) == ("cannot write weights.bin (No such file or directory); choose another output folder")

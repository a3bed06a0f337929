"""What follows from a graph's interface: shapes, caches, which rows attend to which input."""

import numpy as np
import pytest
from small_bundles import ARCHITECTURE

from pointsman.bundle import (
    CAPACITY_MULTIPLE,
    Graph,
    TensorSpec,
    attending,
    cache_capacity,
    decoder_specs,
    empty_cache,
    encoder_specs,
    names,
    side_by_side,
    whole_targets,
)


def test_a_shape_takes_the_sizes_of_its_dynamic_axes():
    spec = TensorSpec(name="x", dtype="float32", axes=(names.ROWS, 4, names.CAPACITY, 8))
    assert spec.shape({names.CAPACITY: 5, names.ROWS: 3, names.BATCH: 7}) == (3, 4, 5, 8)


@pytest.mark.parametrize(("dtype", "stored"), [("float32", "float32"), ("float16", "float16"), ("bfloat16", "uint16")])
def test_an_empty_cache_has_zeros_for_each_key_and_value(dtype, stored):
    inputs, _ = decoder_specs(ARCHITECTURE, dtype)
    cache = empty_cache(inputs, rows=6, capacity=64)
    layers = range(ARCHITECTURE.decoder.layers)
    assert list(cache) == [name for layer in layers for name in names.past_names(layer)]
    assert {array.shape for array in cache.values()} == {(6, ARCHITECTURE.num_heads, 64, ARCHITECTURE.d_kv)}
    assert {array.dtype for array in cache.values()} == {np.dtype(stored)}
    assert not any(array.any() for array in cache.values())


def test_caches_are_inputs_of_decoders_alone():
    (inputs, outputs), (fed, results) = encoder_specs(ARCHITECTURE, "float32"), decoder_specs(ARCHITECTURE, "float32")
    assert Graph(file="encoder.onnx", inputs=inputs, outputs=outputs).caches == ()
    caches = Graph(file="decoder.onnx", inputs=fed, outputs=results).caches
    assert [spec.name for spec in caches] == list(empty_cache(fed, rows=1, capacity=32))
    assert [spec.axes for spec in caches] == [spec.axes for spec in results[1:]]


@pytest.mark.parametrize(("tokens", "capacity"), [(0, 32), (1, 32), (32, 32), (33, 64), (512, 512), (513, 544)])
def test_a_capacity_is_the_least_multiple_that_suffices(tokens, capacity):
    assert cache_capacity(tokens) == capacity
    assert capacity % CAPACITY_MULTIPLE == 0


def test_rows_side_by_side():
    """Two heads: row r has the queries 2r and 2r + 1."""
    specs = [TensorSpec(name=names.ATTENDING_QUERIES, dtype="int64", axes=(names.BATCH, 2, names.WIDTH))]
    rows = side_by_side(specs, 2, 6)
    assert rows[names.ATTENDING_QUERIES].tolist() == [[[0, 2, 4], [1, 3, 5]], [[6, 8, 10], [7, 9, 11]]]
    assert rows[names.ATTENDED_PLACES].tolist() == [[[0, 3]], [[1, 4]], [[2, 5]], [[6, 9]], [[7, 10]], [[8, 11]]]


@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("seed", range(8))
def test_queries_of_rows_of_any_inputs_are_found_again_in_the_grid(seed, positions):
    """Gathering queries into the grid, and out of it, gives each row what belongs to its input."""
    random = np.random.default_rng(seed)
    batch, heads, inputs = 5, 4, random.integers(0, 5, random.integers(1, 12))
    rows = attending(inputs, batch, heads=heads, positions=positions)
    grid, places = rows[names.ATTENDING_QUERIES], rows[names.ATTENDED_PLACES]
    assert grid.shape == (batch, heads, np.bincount(inputs).max() * positions)
    assert places.shape == (len(inputs), positions, heads)
    numbers = np.arange(places.size).reshape(places.shape)  # (row * positions + position) * heads + head
    assert grid.ravel()[places].tolist() == numbers.tolist()
    of_input, head, _ = np.unravel_index(places, grid.shape)
    assert (of_input == inputs[:, None, None]).all()
    assert (head == np.arange(heads)).all()
    assert (grid % heads == np.arange(heads)[None, :, None]).all()


def test_whole_targets_have_a_row_for_each_input_and_room_for_all_positions():
    inputs, _ = decoder_specs(ARCHITECTURE, "float32")
    fed = whole_targets(inputs, 3, 40)
    assert fed[names.LENGTHS].tolist() == [0, 0, 0]
    assert fed[names.CACHE_POSITIONS].tolist() == list(range(64))
    assert fed[names.ATTENDED_PLACES].shape == (3, 40, ARCHITECTURE.num_heads)
    assert {array.shape[2] for name, array in fed.items() if name in dict.fromkeys(empty_cache(inputs, 3, 64))} == {64}
    taken = {names.INPUT_IDS, names.ATTENTION_MASK, *(spec.name for spec in inputs if names.SOURCE in spec.axes)}
    assert fed.keys() | taken == {spec.name for spec in inputs}

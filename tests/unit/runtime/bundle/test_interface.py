"""Shapes that follow from a graph's interface."""

import numpy as np
import pytest
from small_bundles import ARCHITECTURE

from pointsman.bundle import Graph, TensorSpec, decoder_specs, empty_cache, encoder_specs, names


def test_a_shape_takes_the_sizes_of_its_dynamic_axes():
    spec = TensorSpec(name="x", dtype="float32", axes=(names.ROWS, 4, names.PAST, 8))
    assert spec.shape({names.PAST: 5, names.ROWS: 3, names.BATCH: 7}) == (3, 4, 5, 8)


@pytest.mark.parametrize(("dtype", "stored"), [("float32", "float32"), ("float16", "float16"), ("bfloat16", "uint16")])
def test_an_empty_cache_has_an_array_without_tokens_for_each_key_and_value(dtype, stored):
    inputs, _ = decoder_specs(ARCHITECTURE, dtype)
    cache = empty_cache(inputs, rows=6)
    layers = range(ARCHITECTURE.decoder.layers)
    assert list(cache) == [name for layer in layers for name in names.past_names(layer)]
    assert {array.shape for array in cache.values()} == {(6, ARCHITECTURE.num_heads, 0, ARCHITECTURE.d_kv)}
    assert {array.dtype for array in cache.values()} == {np.dtype(stored)}


def test_caches_are_inputs_of_decoders_alone():
    (inputs, outputs), (fed, grown) = encoder_specs(ARCHITECTURE, "float32"), decoder_specs(ARCHITECTURE, "float32")
    assert Graph(file="encoder.onnx", inputs=inputs, outputs=outputs).caches == ()
    caches = Graph(file="decoder.onnx", inputs=fed, outputs=grown).caches
    assert [spec.name for spec in caches] == list(empty_cache(fed, rows=1))

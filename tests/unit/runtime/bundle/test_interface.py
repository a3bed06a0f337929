"""The interface of graphs: shapes of what goes in, and the cache that a decoder starts from."""

import numpy as np
import pytest
from small_bundles import ARCHITECTURE

from pointsman.bundle import TensorSpec, decoder_specs, empty_cache, names


def test_dynamic_axes_get_sizes():
    spec = TensorSpec(name="x", dtype="float32", axes=("batch", 4, "source"))
    assert spec.shape({"batch": 2, "source": 7, "rows": 9}) == (2, 4, 7)


@pytest.mark.parametrize(("dtype", "kind"), [("float32", np.float32), ("float16", np.float16), ("bfloat16", np.uint16)])
def test_an_empty_cache_has_no_position(dtype, kind):
    cache = empty_cache(decoder_specs(ARCHITECTURE, dtype)[0], 3)
    layers = range(ARCHITECTURE.decoder.layers)
    assert list(cache) == [name for layer in layers for name in names.past_names(layer)]
    for array in cache.values():
        assert array.dtype == kind
        assert array.shape == (3, ARCHITECTURE.num_heads, 0, ARCHITECTURE.d_kv)

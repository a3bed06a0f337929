"""Whether this processor multiplies a row with blocks of codes as it does beside others; see `models/row_pairs.py`."""

from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime

from pointsman.bundle import names

_GRAPH = Path(__file__).with_suffix(names.GRAPH_SUFFIX)
"""`y = MatMulNBits(x, w)` with random codes of 4 bits in blocks of 32, w [256, 32], accuracy level 4."""
_INPUTS, _ROWS = 256, 4


@cache
def rows_alone_differ() -> bool:
    """Whether a row of a product with blocks of codes gives something else alone than beside others, in any bit."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(_GRAPH, options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((_ROWS, _INPUTS), np.float32)
    (together,) = session.run(None, {"x": x})
    alone = [session.run(None, {"x": x[row : row + 1]})[0] for row in range(_ROWS)]
    return bool((together != np.concatenate(alone)).any())

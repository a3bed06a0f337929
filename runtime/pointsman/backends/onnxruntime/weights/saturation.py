"""Whether this processor's products of integers are exact, and what makes them so.

x86 processors without VNNI add products of unsigned and signed bytes up in pairs of 16 bits, which saturate. ONNX
Runtime has exact kernels for them, and takes them where it is told to make weights unsigned. It does that to integer
operators; `QuantizeLinear` and `DequantizeLinear` around products of floats it must leave as they are, since it also
makes integer products of them that saturate.
"""

from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime

from pointsman.bundle import names

_GRAPH = Path(__file__).with_suffix(names.GRAPH_SUFFIX)
"""`y = MatMulIntegerToFloat(x, w, 1, ones)` with w int8 [64, 16], all 127."""
_INPUTS, _LARGEST, _WEIGHT = 64, 255, 127
_UNSIGNED_WEIGHTS: Final = "session.x64quantprecision"
FLOATS_STAY: Final = "session.disable_quant_qdq"
"""Of a session, "1": products between `QuantizeLinear` and `DequantizeLinear` stay products of floats."""


def make_exact(options: Any) -> None:  # noqa: ANN401 - untyped engine
    """Have a session's integer products computed exactly; the results are the same on every processor then.

    Weights are found where they are initializers of the graph that their product is in.
    """
    if products_saturate():
        options.add_session_config_entry(_UNSIGNED_WEIGHTS, "1")
        options.add_session_config_entry(FLOATS_STAY, "1")


@cache
def products_saturate() -> bool:
    """Whether products of uint8 with int8 saturate here, by the largest ones that there are."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(_GRAPH, options, providers=["CPUExecutionProvider"])
    (sums,) = session.run(None, {"x": np.full((1, _INPUTS), _LARGEST, np.uint8)})
    return bool((sums != _INPUTS * _LARGEST * _WEIGHT).any())

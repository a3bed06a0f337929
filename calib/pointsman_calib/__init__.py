"""Calibrate exported bundles to INT8 on C4, and compare them with what they were made from.

`quantize` and `compare` are what the commands of the same names run. They are loaded when they are first asked for:
importing this package needs no engine.
"""

from typing import TYPE_CHECKING, Final

from pointsman_calib.loading import loaded

if TYPE_CHECKING:
    from pointsman_calib.comparison import Comparison, compare
    from pointsman_calib.corpus.coverage import CoverageRule
    from pointsman_calib.corpus.text import Corpus
    from pointsman_calib.quantization import quantize
    from pointsman_calib.settle.limits import Limits

__all__ = ["Comparison", "Corpus", "CoverageRule", "Limits", "compare", "quantize"]

_HOMES: Final = {
    "Comparison": "pointsman_calib.comparison",
    "Corpus": "pointsman_calib.corpus.text",
    "CoverageRule": "pointsman_calib.corpus.coverage",
    "Limits": "pointsman_calib.settle.limits",
    "compare": "pointsman_calib.comparison",
    "quantize": "pointsman_calib.quantization",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(loaded(_HOMES[name]), name)

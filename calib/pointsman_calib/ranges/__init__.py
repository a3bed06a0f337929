"""Ranges of activations for symmetric INT8, from histograms of bounded size.

One `RangeObserver` follows one tensor through any number of batches; `amax` then says where to clip. The scale of a
symmetric INT8 quantizer is `amax / 127`.
"""

from pointsman_calib.ranges.clipping import DEFAULT_PERCENTILE, METHODS, Method, check_method, check_percentile
from pointsman_calib.ranges.histogram import RangeObserver

__all__ = ["DEFAULT_PERCENTILE", "METHODS", "Method", "RangeObserver", "check_method", "check_percentile"]

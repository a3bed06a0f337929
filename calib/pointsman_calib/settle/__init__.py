"""What a quantized variant loses on text, and what of it has to be kept in float to hold limits."""

from pointsman_calib.settle.calibration_text import CalibrationText
from pointsman_calib.settle.limits import DEFAULT_LIMITS, Limits
from pointsman_calib.settle.scores import Scores, score
from pointsman_calib.settle.search import Kept, Settled, Trials, measured, settle

__all__ = [
    "DEFAULT_LIMITS",
    "CalibrationText",
    "Kept",
    "Limits",
    "Scores",
    "Settled",
    "Trials",
    "measured",
    "score",
    "settle",
]

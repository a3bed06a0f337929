"""What a quantized variant loses on text, and what has to be spared of it to keep to limits."""

from pointsman_calib.settle.limits import DEFAULT_LIMITS, Limits
from pointsman_calib.settle.scores import Scores, score
from pointsman_calib.settle.search import Settled, Spared, Text, measured, settle

__all__ = ["DEFAULT_LIMITS", "Limits", "Scores", "Settled", "Spared", "Text", "measured", "score", "settle"]

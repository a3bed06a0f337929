"""Variants of a bundle compared on C4: how far each is from the most precise one, and what that costs in loss.

`records` is the result; `subject` says what is compared and on what, `measuring` measures, `judging` holds what was
measured to the limits, `comparing` does all of it in order; `table` shows the result on a terminal, and the two files
of Polygraphy's give the same comparison to its tools.
"""

from pointsman_calib.comparison.comparing import compare
from pointsman_calib.comparison.records import Comparison
from pointsman_calib.settle.limits import Limits

__all__ = ["Comparison", "Limits", "compare"]

"""The one thing that every way of rounding demands of its input."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import BundleError


def require_finite(values: NDArray[np.floating[Any]], what: str) -> None:
    """Refuse NaN and infinity, which no scale can represent.

    Raises:
        BundleError: there is one.
    """
    if not np.isfinite(values).all():
        raise BundleError(f"{what} has NaN or infinite values and cannot be quantized; export the checkpoint again")

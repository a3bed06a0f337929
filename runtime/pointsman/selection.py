"""What an engine that chooses tokens where it computes logits tells of them; decoding and backends both speak it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Selection:
    """The next token's logits, of those tokens that can matter.

    Attributes:
        named_logits: float32 [rows, named], of the tokens that were asked for by name.
        best_ids: int64 [rows, count], the tokens of highest logits among all others; of equal ones the lower ids.
        best_logits: float32 [rows, count], theirs.
        log_total: float32 [rows], log of the summed exponentials of the logits of all tokens not named; NaN where one
            of them is NaN or infinite.
    """

    named_logits: NDArray[np.float32]
    best_ids: NDArray[np.int64]
    best_logits: NDArray[np.float32]
    log_total: NDArray[np.float32]

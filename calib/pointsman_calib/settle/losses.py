"""The loss of text under teacher forcing: the decoder is fed each label, and asked for the next."""

import numpy as np
from numpy.typing import NDArray

from pointsman.decoding.scores import log_normalizers
from pointsman.errors import ParityError


def token_losses(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Teacher-forced cross-entropy of each label.

    Args:
        logits: ``[labels, vocab]``.
        labels: ``[labels]``.

    Returns:
        nats, ``[labels]``.

    Raises:
        ParityError: logits are not finite.
    """
    if not np.isfinite(logits).all():
        raise ParityError("the logits are not finite on this text; export the checkpoint again")
    chosen = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return log_normalizers(logits).astype(np.float64) - chosen

"""Whether a model finds the hidden words at all: where it does not, nothing that is held beside it says anything."""

import math
from typing import Final

_NEAR: Final = 0.95  # of the loss of a guess


def no_better_than_chance(name: str, loss: float, ids: int) -> str | None:
    """What to say of a model whose loss is that of a guess among all ids, or about so; None of one that knows better.

    Args:
        name: of the variant that others are held beside.
        loss: its own, in nats per token.
        ids: the rows of its embedding.
    """
    guess = math.log(ids)
    if loss < _NEAR * guess:
        return None
    return (
        f"{name} itself finds the right tokens no better than chance: its loss is {loss:.2f} nats, and a guess among "
        f"its {ids:,} ids has {guess:.2f}. Its vocabulary may be a wrong one, or the text unlike what it was trained "
        "on; that another variant is as good says nothing."
    )

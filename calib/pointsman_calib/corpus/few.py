"""Whether text is so little that figures measured on it say little: one rule for calibrating and for comparing."""

from typing import Final

from pointsman.wording import counted

FEW_DOCUMENTS: Final = 100
FEW_LABELS: Final = 2000
"""Of that many, a share of 99 % has a standard error of 0.2 points."""


def few_labels(documents: int, labels: int, kind: str = "label") -> str | None:
    """What to say of figures on so little text; None where there is enough.

    Args:
        documents: of the text.
        labels: tokens over which shares were counted.
        kind: what such a token is called.
    """
    if documents >= FEW_DOCUMENTS and labels >= FEW_LABELS:
        return None
    share = f"One of them is {100 / labels:.2f} points of every share; " if labels else ""
    return (
        f"Few labels: {counted(documents, 'document')} with {counted(labels, kind)}, the tokens that were to be found. "
        f"{share}take {FEW_DOCUMENTS} documents or more."
    )

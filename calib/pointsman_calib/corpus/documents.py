"""Which documents were used: calibration and evaluation never share one."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from pointsman.errors import CorpusError
from pointsman_calib.corpus.batches import Example


@dataclass(frozen=True, slots=True)
class DocumentSet:
    """Documents by the SHA-256 of their text: enough to name a set and to prove two disjoint, without the text.

    Attributes:
        sha256s: hex digests, one for each distinct document.
    """

    sha256s: frozenset[str]

    @classmethod
    def of(cls, examples: Iterable[Example]) -> Self:
        """The documents that examples were made of."""
        return cls(frozenset(example.document_sha256 for example in examples))

    def __len__(self) -> int:
        return len(self.sha256s)

    @property
    def sha256(self) -> str:
        """Hex digest of the sorted digests, one a line: the same set, the same digest, in whatever order."""
        return hashlib.sha256("".join(f"{digest}\n" for digest in sorted(self.sha256s)).encode()).hexdigest()


def refuse_overlap(calibration: DocumentSet, evaluation: DocumentSet) -> None:
    """Check that no document is in both sets: figures on text that was calibrated on flatter.

    Raises:
        CorpusError: some are.
    """
    shared = len(calibration.sha256s & evaluation.sha256s)
    if shared:
        raise CorpusError(
            f"{shared} of {len(evaluation)} evaluation documents were calibrated on; evaluate on other files, "
            "for example C4's validation split, and calibrate on its train split"
        )

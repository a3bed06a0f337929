"""The part of a calibration text that variants are run on, again and again, to be judged and ranked."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pointsman.bundle import Architecture, Role, Variant
from pointsman_calib.corpus.batches import Batch
from pointsman_calib.corpus.text import Corpus
from pointsman_calib.graphs.runs import PiecewiseRun
from pointsman_calib.settle.scores import score
from pointsman_calib.settle.search import Trials

RANKED_DOCUMENTS: Final = 32  # the text is run once for each layer
JUDGED_DOCUMENTS: Final = 128  # some seven times


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationText:
    """A corpus that graphs of one interface are run on.

    Attributes:
        corpus: all of it.
        architecture: of the graphs.
        variant: whose interface they have.
        batch_size: documents run together.
        scratch: folder for temporary files.
    """

    corpus: Corpus
    architecture: Architecture
    variant: Variant
    batch_size: int
    scratch: Path

    def run(self, graphs: Mapping[Role, Path], documents: int | None = None) -> PiecewiseRun:
        """Graphs on its first documents, or on all."""
        corpus = replace(self.corpus, examples=self.corpus.examples[:documents]) if documents else self.corpus

        def batches() -> Iterator[Batch]:
            return corpus.batches(self.architecture, self.batch_size)

        return PiecewiseRun(graphs, self.variant, batches, scratch=self.scratch)

    def beside(self, source: Mapping[Role, Path], draft: Mapping[Role, Path]) -> Trials:
        """How a draft is judged beside the float variant.

        Args:
            source: the float graphs' files, which are run now.
            draft: the draft's, which are run whenever they are scored.
        """
        return Trials(
            judging=lambda: score(self.run(draft, JUDGED_DOCUMENTS)),
            ranking=lambda: score(self.run(draft, RANKED_DOCUMENTS)),
            exact=score(self.run(source, JUDGED_DOCUMENTS)),
        )

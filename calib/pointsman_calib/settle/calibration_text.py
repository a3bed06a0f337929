"""The part of a calibration text that variants are run on, again and again, to be judged and ranked."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pointsman.backends.onnxruntime.session import Device
from pointsman.bundle import Architecture, Role, Variant, names
from pointsman_calib.corpus.batches import Batch
from pointsman_calib.corpus.text import Corpus
from pointsman_calib.graphs.branching import BranchedRun
from pointsman_calib.graphs.runs import PiecewiseRun
from pointsman_calib.progress import Progress
from pointsman_calib.settle.ranking import Branches, places_of, score_branches
from pointsman_calib.settle.scores import Scores, score
from pointsman_calib.settle.search import Draft, Kept, Trials, layers_of

JUDGED_DOCUMENTS: Final = 128  # some three times
TRIED_DOCUMENTS: Final = 32  # some six times
RANKED_DOCUMENTS: Final = 32  # where there are few layers
# Half of all layers are run for each branch, and there is one for each layer: so deep models are ranked on less text.
_RANKED_RUNS: Final = 400  # documents times layers
_LEAST_RANKED: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationText:
    """A corpus that graphs of one interface are run on.

    Attributes:
        corpus: all of it.
        architecture: of the graphs.
        variant: whose interface they have.
        most_tokens: of a batch, unless a document has more.
        scratch: folder for temporary files.
        device: where graphs run.
    """

    corpus: Corpus
    architecture: Architecture
    variant: Variant
    most_tokens: int
    scratch: Path
    device: Device = "cpu"

    @property
    def is_judged_whole(self) -> bool:
        """Whether limits are checked on all of it."""
        return len(self.corpus.examples) <= JUDGED_DOCUMENTS

    def run(
        self,
        graphs: Mapping[Role, Path],
        documents: int | None = None,
        *,
        by_blocks: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> PiecewiseRun:
        """Graphs on its first documents, or on all; cut behind each block, or as their weights ask for."""
        corpus = replace(self.corpus, examples=self.corpus.examples[:documents]) if documents else self.corpus

        def batches() -> Iterator[Batch]:
            return corpus.batches_by_length(self.architecture, self.most_tokens)

        return PiecewiseRun(
            graphs,
            self.variant,
            batches,
            scratch=self.scratch,
            cuts=self._blocks() if by_blocks else None,
            device=self.device,
            progress=progress,
        )

    def score(self, graphs: Mapping[Role, Path], documents: int, what: str) -> Scores:
        """Score graphs on its first documents; `what` says to a user what is done."""
        work = self.run(graphs, documents).work
        with Progress(what, work) as shown:
            return score(self.run(graphs, documents, progress=shown.update))

    def beside(self, source: Mapping[Role, Path], draft: Mapping[Role, Path], scheme: str) -> Trials:
        """How a draft is judged beside the float variant.

        Args:
            source: the float graphs' files, which are run now.
            draft: the draft's, which are run whenever they are scored.
            scheme: of the draft.
        """
        judging = lambda: self.score(draft, JUDGED_DOCUMENTS, f"{scheme} on the corpus")  # noqa: E731
        trying = lambda: self.score(draft, TRIED_DOCUMENTS, f"{scheme} with layers kept")  # noqa: E731
        return Trials(
            judging=judging,
            trying=judging if len(self.corpus.examples) <= TRIED_DOCUMENTS else trying,
            ranking=lambda written: self.rank(written, source, draft),
            exact=self.score(source, JUDGED_DOCUMENTS, "the float variant on the corpus"),
        )

    def rank(self, written: Draft, source: Mapping[Role, Path], draft: Mapping[Role, Path]) -> Branches:
        """Score a draft that keeps nothing, and with the inputs of each layer kept, on the first documents.

        Args:
            written: the draft, which is written twice.
            source: the float graphs' files.
            draft: the draft's.
        """
        layers = layers_of(written.quantizable)
        documents = max(_LEAST_RANKED, min(RANKED_DOCUMENTS, _RANKED_RUNS // len(layers)))
        places = places_of(layers, self.run(source, by_blocks=True).graphs["decoder"])
        with Progress("ranking the layers", 1) as shown:
            opened = []
            for inputs in (frozenset[str](), frozenset(written.quantizable)):
                written.write(Kept(inputs=inputs))
                opened.append(
                    self.run(draft, documents, by_blocks=True, progress=lambda more: shown.update(more / work))
                )
            trunk, other = opened
            run = BranchedRun(trunk, other, {place for place in places.values() if place is not None})
            work = run.work
            return score_branches(run, trunk, places)

    def _blocks(self) -> dict[Role, tuple[str, ...]]:
        counts: dict[Role, int] = {
            "encoder": self.architecture.encoder.layers,
            "decoder": self.architecture.decoder.layers,
        }
        return {
            role: tuple(names.block_path(role, number) for number in range(count)) for role, count in counts.items()
        }

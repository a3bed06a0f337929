"""The baseline and one candidate side by side on the same batches, decoder positions all at once.

Both graphs are cut after the same blocks and run a piece at a time: one piece of each is in memory, and the residual
streams wait in temporary files. What both make of a batch is counted and forgotten before the next is run. So memory
grows neither with the number of documents, nor of blocks, nor of candidates.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pointsman.backends.onnxruntime.session import Device
from pointsman.bundle import Architecture, Role, Stack, Variant, names
from pointsman.errors import ParityError
from pointsman_calib.comparison.measuring.probes import Probes, Seen
from pointsman_calib.comparison.measuring.tallies import PairTally, VariantTally
from pointsman_calib.comparison.records import NonFinite
from pointsman_calib.corpus.batches import Batch
from pointsman_calib.graphs.runs import PIECE_BYTES, PiecewiseRun, graph_files

Cuts = Mapping[Role, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted of a pair.

    Attributes:
        baseline: by itself.
        candidate: by itself.
        pair: of the two together.
    """

    baseline: VariantTally
    candidate: VariantTally
    pair: PairTally

    def merge(self, later: "Counted") -> None:
        """Count what was counted of documents that come after these."""
        self.baseline.merge(later.baseline)
        self.candidate.merge(later.candidate)
        self.pair.merge(later.pair)


class Reader:
    """A variant that reads documents and their targets, piece by piece.

    Attributes:
        name: of the variant.
        steps: how often a batch is handed out.
    """

    def __init__(
        self,
        bundle: Path,
        name: str,
        variant: Variant,
        architecture: Architecture,
        batches: Callable[[], Iterable[Batch]],
        cuts: Cuts,
        device: Device = "cpu",
        threads: int | None = None,
    ) -> None:
        """Read the graphs, and run nothing yet.

        Args:
            bundle: its folder.
            name: of the variant.
            variant: its part of the manifest.
            architecture: of the bundle.
            batches: the text, the same anew at each call.
            cuts: after which blocks to cut each graph.
            device: where it runs.
            threads: of the CPU; one for each core that the process may use where None.

        Raises:
            BundleError: a tensor that is compared is not in its graph.
        """
        self.name = name
        files = graph_files(bundle, variant)
        self._run = PiecewiseRun(files, variant, batches, cuts=cuts, device=device, threads=threads)
        self._probes = {
            role: Probes(pieces, variant.graph(role), role, stacks(architecture)[role])
            for role, pieces in self._run.graphs.items()
        }
        self._first = {"encoder": 0, "decoder": len(self._run.graphs["encoder"])}
        self.steps = sum(map(len, self._run.graphs.values()))

    def read(self) -> Iterator[tuple[int, Batch, Seen]]:
        """Each piece's number and its part of each batch: the encoder's pieces, then the decoder's.

        Raises:
            BundleError: the engine refuses a graph.
        """
        for batch, role, values in self._run.values({role: probes.values for role, probes in self._probes.items()}):
            piece = self._first[role] + self._run.graphs[role].piece_of(min(values))
            seen = self._probes[role].read(batch, values)
            del values  # before the next are there
            yield piece, batch, seen
            del seen


def count_pair(
    baseline: Reader, candidate: Reader, *, num_experts: int, layers: bool, progress: Callable[[int], object]
) -> Counted:
    """Run two variants over all batches.

    Args:
        baseline: to compare with.
        candidate: cut at the same blocks.
        num_experts: of a sparse layer.
        layers: whether to compare the residual stream after each block.
        progress: called with the number of documents after each batch of each piece, `baseline.steps` times in all.

    Raises:
        ParityError: the baseline's values are not finite.
        BundleError: the engine refuses a graph.
    """
    counted = Counted(VariantTally(num_experts), VariantTally(num_experts), PairTally(layers))
    beside = candidate.read()
    for piece, batch, ours in baseline.read():
        if not counted.baseline.update(piece, batch, ours):
            raise ParityError(_not_finite(baseline.name, counted.baseline.non_finite))
        if counted.candidate.overflow is None:  # else it is not run any further
            _, _, theirs = next(beside)
            if counted.candidate.update(piece, batch, theirs):
                counted.pair.update(batch, ours, theirs)
            del theirs
        del ours
        progress(len(batch.labels))
    return counted


def _not_finite(name: str, tensors: Iterable[NonFinite]) -> str:
    where = ", ".join(f"{tensor.values} of {tensor.name}" for tensor in tensors)
    return f"the baseline {name} gives values that are not finite ({where}); compare with a float32 variant"


def cuts_of(architecture: Architecture, variants: Iterable[Variant], piece_bytes: int = PIECE_BYTES) -> Cuts:
    """After which blocks to cut the graphs of variants that run side by side.

    Args:
        architecture: of the bundle.
        variants: that run side by side.
        piece_bytes: variants that weigh no more in all are cut before their final norms only, as they must be.
    """
    largest = max(sum(file.bytes for file in variant.files) for variant in variants)
    return {
        role: [names.block_path(role, number) for number in _cut_blocks(stack.layers, whole=largest <= piece_bytes)]
        for role, stack in stacks(architecture).items()
    }


def _cut_blocks(layers: int, *, whole: bool) -> range:
    return range(layers - 1 if whole else 0, layers)


def stacks(architecture: Architecture) -> dict[Role, Stack]:
    """Each graph's blocks."""
    return {"encoder": architecture.encoder, "decoder": architecture.decoder}

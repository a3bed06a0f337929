"""Runs of a variant over text, a piece of its graphs at a time, in which values inside the graphs can be seen.

A piece is loaded, run on all batches and released before the next is loaded; the residual stream waits in temporary
files in between. So memory is that of the largest piece and of one batch, whatever the numbers of layers and batches.
"""

import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from pointsman.backends.onnxruntime.session import Device
from pointsman.bundle import Role, Variant, names, whole_targets
from pointsman_calib.corpus.batches import Batch
from pointsman_calib.graphs.pieces import Array, GraphPieces, Piece, Values

PIECE_BYTES: Final = 1 << 27  # of weights: small models are run whole but for what follows the final norms
# On a GPU a piece is run so fast that loading it takes longer, so pieces are larger, and fewer.
CUDA_PIECE_BYTES: Final = 1 << 29


class PiecewiseRun:
    """A variant's encoder, and its decoder fed with the targets, all positions at once.

    Cross-attention keys and values are computed anew for each piece of the decoder: of all layers, they would be larger
    than the residual stream by twice the number of layers.

    Attributes:
        graphs: in pieces.
        batches: the text, the same anew at each call.
        progress: called with the tokens of a batch after each piece that it is run through; None calls nothing.
    """

    def __init__(
        self,
        graphs: Mapping[Role, Path],
        variant: Variant,
        batches: Callable[[], Iterable[Batch]],
        *,
        scratch: Path | None = None,
        piece_bytes: int | None = None,
        cuts: Mapping[Role, Sequence[str]] | None = None,
        device: Device = "cpu",
        threads: int | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        """Read the graphs, and run nothing yet.

        Args:
            graphs: the files; their weights lie beside them.
            variant: whose interface they have.
            batches: the text, the same anew at each call.
            scratch: folder for temporary files; the system's where None.
            piece_bytes: of the weights of a piece, unless a single sublayer has more; what suits the device where None.
            cuts: where to cut each graph, whatever pieces weigh; see `GraphPieces`.
            device: where pieces run.
            threads: of the CPU; one for each core that the process may use where None.
            progress: see the attribute; `work` and `work_for` say how much it is given in all.

        Raises:
            BundleError: a value at which to cut is not in its graph.
        """
        at, most = cuts or {}, piece_bytes
        if most is None:
            most = PIECE_BYTES if device == "cpu" else CUDA_PIECE_BYTES
        self.graphs = {role: GraphPieces(path, most, at.get(role), device, threads) for role, path in graphs.items()}
        self._variant, self._scratch = variant, scratch
        self.batches, self.progress = batches, progress
        self._kept: dict[Role, dict[str, Stream]] = {role: {} for role in graphs}

    @property
    def work(self) -> int:
        """What `progress` is given in all where text is run once through all pieces."""
        return sum(self.tokens(role) * self.pieces(role) for role in self.graphs)

    def tokens(self, role: Role) -> int:
        """Of the whole text as a graph reads it, padding included."""
        return sum(_tokens(batch, role) for batch in self.batches())

    def pieces(self, role: Role) -> int:
        """How many pieces of a graph lie on the way to the logits: of the encoder, all but what follows its norm."""
        return len(self.graphs[role]) - (role == "encoder")

    def values(self, wanted: Mapping[Role, Iterable[str]]) -> Iterator[tuple[Batch, Role, Values]]:
        """Values inside the graphs, piece by piece, those of a piece batch by batch.

        What was run last is not run again: to ask for values in the order of the layers, part by part, costs little
        more than to ask for all at once. Who drops values before asking for the next has those of one batch in memory
        and never of two.

        Args:
            wanted: names of the values, of the graphs' outputs or inside them.

        Yields:
            the batch, the graph, and the wanted values of one of its pieces.
        """
        for role, numbers, values in self._planned(wanted):
            for number in numbers:
                yield from self._run_piece(role, number, values.get(number, set()))

    def work_for(self, wanted: Mapping[Role, Iterable[str]]) -> int:
        """What `progress` is given in all while `values` runs for these now."""
        return sum(self.tokens(role) * len(numbers) for role, numbers, _ in self._planned(wanted))

    def _planned(self, wanted: Mapping[Role, Iterable[str]]) -> list[tuple[Role, range, dict[int, set[str]]]]:
        """Which pieces of each graph are to run, and what each is to give."""
        pieces = {role: self._by_piece(role, wanted.get(role, ())) for role in self.graphs}
        if pieces["decoder"] and self.states not in self._kept["encoder"]:
            pieces["encoder"].setdefault(self.graphs["encoder"].piece_of(self.states), set())
        return [(role, self._range(role, values), values) for role, values in pieces.items()]

    @property
    def states(self) -> str:
        """The stream that the decoder's keys and values come from."""
        return self.graphs["encoder"].streams[-1]

    def _by_piece(self, role: Role, values: Iterable[str]) -> dict[int, set[str]]:
        found: dict[int, set[str]] = {}
        for value in values:
            found.setdefault(self.graphs[role].piece_of(value), set()).add(value)
        return found

    def _range(self, role: Role, wanted: Mapping[int, set[str]]) -> range:
        """What leads from the nearest stream that is kept to the last wanted piece."""
        first = min(wanted, default=0)
        while not self._kept[role].keys() >= set(self.graphs[role].around(first)[0]):
            first -= 1
        return range(first, max(wanted, default=-1) + 1)

    def _run_piece(self, role: Role, number: int, wanted: set[str]) -> Iterator[tuple[Batch, Role, Values]]:
        """Run one on all batches. Kept are the streams around it, and what the decoder needs; others are forgotten."""
        before, after = self.graphs[role].around(number)
        written = {name: self.stream() for name in after if name not in self._kept[role]}
        if not wanted and not written:
            return  # it leads to the encoder's last stream, which is kept
        piece = self.graphs[role].load(number, sorted(wanted.union(written)))
        for batch, feeds in self._feeds(role, number, piece):
            found = piece.run(feeds)
            for name, stream in written.items():
                stream.append(found[name])
            if wanted:
                yield batch, role, {name: found[name] for name in wanted}
            del found, feeds  # before the next are there
            self.done(batch, role)
        useful = {*before, *after, self.states}
        self._kept[role] = {name: kept for name, kept in self._kept[role].items() if name in useful} | written

    def _feeds(self, role: Role, number: int, piece: Piece) -> Iterator[tuple[Batch, Values]]:
        """Each batch with what a piece of it reads."""
        crossing = self.crossing(piece) if role == "decoder" else None
        streams = {name: iter(self._kept[role][name]) for name in self.graphs[role].around(number)[0]}
        if crossing is not None:
            streams[self.states] = iter(self._kept["encoder"][self.states])
        for batch in self.batches():
            arrays = {name: next(stream) for name, stream in streams.items()}
            if crossing is not None:
                arrays |= crossing.run(self.feeds(batch, "encoder") | arrays)
            yield batch, arrays | self.feeds(batch, role)

    def stream(self) -> "Stream":
        """A new one, with nothing in it."""
        return Stream(self._scratch)

    def done(self, batch: Batch, role: Role) -> None:
        """Say that a batch was run through a piece."""
        if self.progress is not None:
            self.progress(_tokens(batch, role))

    def crossing(self, piece: Piece) -> Piece | None:
        """What computes the keys and values that a piece of the decoder reads; None if it reads none."""
        read = [spec.name for spec in self._variant.encoder.outputs if spec.name in piece.inputs]
        encoder = self.graphs["encoder"]
        return encoder.load(len(encoder) - 1, read) if read else None

    def feeds(self, batch: Batch, role: Role) -> dict[str, Array]:
        """A batch as a graph reads it, but for what comes from other pieces."""
        if role == "encoder":
            return {names.INPUT_IDS: batch.input_ids, names.ATTENTION_MASK: batch.attention_mask}
        feeds = {names.INPUT_IDS: batch.decoder_input_ids, names.ATTENTION_MASK: batch.attention_mask}
        return feeds | whole_targets(self._variant.decoder.inputs, *batch.decoder_input_ids.shape)


class Stream:
    """Arrays in a temporary file, read again in the order in which they came."""

    def __init__(self, folder: Path | None) -> None:
        self._file, self._count = tempfile.TemporaryFile(dir=folder), 0  # noqa: SIM115 - closed when it is forgotten
        weakref.finalize(self, self._file.close)

    def append(self, array: Array) -> None:
        """Put one behind the others."""
        np.save(self._file, array, allow_pickle=False)
        self._count += 1

    def __iter__(self) -> Iterator[Array]:
        self._file.seek(0)
        for _ in range(self._count):
            yield np.load(self._file, allow_pickle=False)


def _tokens(batch: Batch, role: Role) -> int:
    return batch.input_ids.size if role == "encoder" else batch.decoder_input_ids.size


def graph_files(bundle: Path, variant: Variant) -> dict[Role, Path]:
    """Where the graphs are that run over whole documents."""
    return {"encoder": bundle / variant.encoder.file, "decoder": bundle / variant.decoder.file}

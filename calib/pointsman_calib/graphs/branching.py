"""Variants that differ in one piece each, all of them run in one pass over the pieces.

The trunk is one variant's graphs. At a piece, a branch leaves it: there another variant's piece takes the place of the
trunk's, and what follows are the trunk's pieces again, on the branch's own residual stream. Pieces before it are run
for the trunk alone. So each piece is loaded once, and what branches cost is half of running each by itself; a branch
that leaves the decoder costs no encoder at all.
"""

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final, Literal

from pointsman.bundle import Role
from pointsman_calib.corpus.batches import Batch
from pointsman_calib.graphs.pieces import Values
from pointsman_calib.graphs.runs import PiecewiseRun, Stream

TRUNK: Final = "trunk"
Place = tuple[Role, int]
"""A piece at which a branch leaves the trunk, and the branch's name."""
Branch = Place | Literal["trunk"]


class BranchedRun:
    """A trunk and its branches over text, once."""

    def __init__(self, trunk: PiecewiseRun, other: PiecewiseRun, places: Collection[Place]) -> None:
        """Run nothing yet.

        Args:
            trunk: the variant that branches leave.
            other: the variant whose pieces they take instead, cut at the same places, on the same text.
            places: where one leaves; none does at the encoder's last piece, which makes keys and values only.
        """
        self._trunk, self._other, self._places = trunk, other, places
        self._behind: dict[Branch, Stream] = {}  # what was run last, of this graph
        self._states: dict[Branch, Stream] = {}  # of the encoder

    @functools.cached_property
    def work(self) -> int:
        """What both runs' `progress` is given in all."""
        total, branches = 0, 1
        for role in self._trunk.graphs:
            tokens = self._trunk.tokens(role)
            for number in range(self._trunk.pieces(role)):
                branches += (role, number) in self._places
                total += branches * tokens
        return total

    def values(self, wanted: Mapping[Role, Iterable[str]]) -> Iterator[tuple[Branch, Batch, Role, Values]]:
        """Values inside the graphs, piece by piece, batch by batch; see `PiecewiseRun.values`.

        Yields:
            whose they are, the batch, the graph, and the wanted values of one of its pieces, none where it has none.
                A branch has none from before it left the trunk.
        """
        for role, run in self._trunk.graphs.items():
            named = {value: run.piece_of(value) for value in wanted.get(role, ())}
            self._behind, before = {TRUNK: self._trunk.stream()}, self._behind
            if role == "decoder":
                self._states = before
                self._behind |= {branch: self._trunk.stream() for branch in self._states}
            for number in range(self._trunk.pieces(role)):
                values = sorted(value for value, piece in named.items() if piece == number)
                yield from self._run_piece(role, number, values)

    def _run_piece(self, role: Role, number: int, wanted: list[str]) -> Iterator[tuple[Branch, Batch, Role, Values]]:
        behind: dict[Branch, Stream] = {branch: self._trunk.stream() for branch in self._behind}
        itself = {branch: branch for branch in self._behind}
        for branch, batch, found in self._runs(self._trunk, role, number, wanted, itself):
            self._lay_by(behind[branch], role, number, found)
            yield branch, batch, role, {name: found[name] for name in wanted}
            del found
        if (role, number) in self._places:
            behind[role, number] = self._trunk.stream()
            for branch, batch, found in self._runs(self._other, role, number, wanted, {(role, number): TRUNK}):
                self._lay_by(behind[branch], role, number, found)
                yield branch, batch, role, {name: found[name] for name in wanted}
                del found
        self._behind = behind

    def _lay_by(self, stream: Stream, role: Role, number: int, found: Values) -> None:
        for name in self._trunk.graphs[role].around(number)[1]:
            stream.append(found[name])

    def _runs(
        self, run: PiecewiseRun, role: Role, number: int, wanted: list[str], sources: Mapping[Branch, Branch]
    ) -> Iterator[tuple[Branch, Batch, Values]]:
        """Run a piece for branches, each on what its source left before it, and let go of it then."""
        before, after = run.graphs[role].around(number)
        piece = run.graphs[role].load(number, [*wanted, *after])
        crossing = run.crossing(piece) if role == "decoder" else None
        streams = {source: iter(self._behind[source]) for source in sources.values()}
        states = {owner: iter(stream) for owner, stream in self._states.items()} if crossing is not None else {}
        for batch in run.batches():
            crossed: dict[Branch, Values] = {}
            waiting = {owner: next(stream) for owner, stream in states.items()}
            for branch, source in sources.items():
                feeds = run.feeds(batch, role) | {name: next(streams[source]) for name in before}
                if crossing is not None:
                    owner = source if source in states else TRUNK
                    if owner not in crossed:
                        read = run.feeds(batch, "encoder") | {run.states: waiting[owner]}
                        crossed[owner] = crossing.run(read)
                    feeds |= crossed[owner]
                yield branch, batch, piece.run(feeds)
                run.done(batch, role)

"""What keeping each layer's inputs would gain, measured in one pass over the pieces of the graphs.

The trunk is the draft that keeps nothing; at each block, and at the head, a branch leaves it in which the inputs of
that layer alone are kept. What comes of each is what a run of that choice would give.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pointsman.bundle import Role, names
from pointsman_calib.graphs.branching import TRUNK, Branch, BranchedRun, Place
from pointsman_calib.graphs.pieces import GraphPieces
from pointsman_calib.graphs.products import products
from pointsman_calib.graphs.runs import PiecewiseRun
from pointsman_calib.settle.scores import Scores, Tally, empty_tally, scored_values

Cuts = Mapping[Role, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Branches:
    """A draft that keeps nothing, and what becomes of it when the inputs of one layer are kept.

    Attributes:
        without: of the draft that keeps nothing.
        kept: for each layer, of the one that keeps its inputs.
    """

    without: Scores
    kept: Mapping[str, Scores]


def score_branches(run: BranchedRun, trunk: PiecewiseRun, layers: Mapping[str, Place | None]) -> Branches:
    """Run a draft and its branches.

    Args:
        run: of both; the trunk keeps nothing, and the other keeps the inputs of all layers.
        trunk: of the run.
        layers: for each layer, where its branch leaves; None where none does, since nothing of it is multiplied.

    Raises:
        ParityError: the logits are not finite.
    """
    tallies: dict[Branch, Tally] = {TRUNK: empty_tally(trunk)}
    for branch, batch, role, values in run.values(scored_values(trunk)):
        if branch not in tallies:
            tallies[branch] = tallies[TRUNK].branch()
        tallies[branch].add(batch, role, values)
        del values
    found = {branch: tally.scores() for branch, tally in tallies.items()}
    without = found[TRUNK]
    return Branches(without, {layer: found.get(place or TRUNK, without) for layer, place in layers.items()})


def places_of(layers: Mapping[str, object], decoder: GraphPieces) -> dict[str, Place | None]:
    """Where a branch leaves for each layer, in graphs that are cut behind each block.

    Args:
        layers: by block path, or the name of a weight that belongs to no block.
        decoder: the float one, whose last product is the head's.
    """
    *_, head = products(decoder.graph, "decoder")
    return {layer: _place(layer, head.weight, len(decoder) - 1) for layer in layers}


def _place(layer: str, head: str, last: int) -> Place | None:
    if (block := names.block_of(f"{layer}.")) is not None:
        return block
    return ("decoder", last) if layer == head else None

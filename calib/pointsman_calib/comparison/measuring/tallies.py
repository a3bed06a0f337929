"""What is counted of each variant, and of a candidate beside the baseline, batch by batch; counts of parts add up."""

from dataclasses import dataclass, field

import numpy as np

from pointsman.bundle import names
from pointsman_calib.comparison.measuring.errors import ErrorTally, Share, StepTally
from pointsman_calib.comparison.measuring.intervals import DocumentLosses
from pointsman_calib.comparison.measuring.probes import Array, Seen
from pointsman_calib.comparison.records import ExpertAgreement, LayerCoverage, NonFinite, TensorErrors
from pointsman_calib.corpus.batches import Batch
from pointsman_calib.settle.losses import token_losses


@dataclass(frozen=True, slots=True)
class Overflow:
    """Where a variant first gave values that are not finite.

    Attributes:
        piece: number of the piece, those of both graphs counted through.
        tensors: of the first such batch.
    """

    piece: int
    tensors: tuple[NonFinite, ...]


@dataclass(slots=True)
class VariantTally:
    """What is counted of a variant by itself.

    Attributes:
        num_experts: of a sparse layer.
        losses: of each document.
        routed: of each block with a router, how many tokens each expert was chosen for.
        overflow: the first; nothing is counted from then on.
    """

    num_experts: int
    losses: DocumentLosses = field(default_factory=DocumentLosses)
    routed: dict[str, list[int]] = field(default_factory=dict)
    overflow: Overflow | None = None

    @property
    def non_finite(self) -> tuple[NonFinite, ...]:
        """Tensors of the first layers and batch that have any such value."""
        return self.overflow.tensors if self.overflow else ()

    def update(self, piece: int, batch: Batch, seen: Seen) -> bool:
        """Count what a piece makes of a batch; returns whether all its values, and all before, were finite."""
        if self.overflow is None and (tensors := tuple(seen.non_finite())):
            self.overflow = Overflow(piece, tensors)
        if self.overflow is not None:
            return False
        for block, experts in seen.experts.items():
            self._route(block, np.bincount(experts, minlength=self.num_experts).tolist())
        if names.LOGITS in seen.outputs:
            losses = token_losses(seen.outputs[names.LOGITS], batch.labels[batch.label_mask])
            self.losses.update(losses, batch.span_mask, batch.label_mask)
        return True

    def merge(self, later: "VariantTally") -> None:
        """Count what another has counted of documents that come after these.

        All documents are run through a piece before any is run through the next, so an earlier piece comes first.
        """
        if later.overflow and (self.overflow is None or later.overflow.piece < self.overflow.piece):
            self.overflow = later.overflow
        for block, counts in later.routed.items():
            self._route(block, counts)
        self.losses.merge(later.losses)

    def _route(self, block: str, counts: list[int]) -> None:
        before = self.routed.get(block, [0] * self.num_experts)
        self.routed[block] = [one + other for one, other in zip(before, counts, strict=True)]

    def coverage(self) -> tuple[LayerCoverage, ...]:
        """Tokens of each expert of each sparse layer, in the order of computation."""
        return tuple(LayerCoverage(layer=block, tokens=tuple(counts)) for block, counts in self.routed.items())


@dataclass(slots=True)
class PairTally:
    """What is counted of a candidate beside the baseline.

    Attributes:
        with_layers: whether the residual stream after each block is compared.
        tokens: label positions at which both find the same token likeliest.
        routed: tokens, of all sparse layers, that both send to the same expert.
        steps: of the logits.
        of_experts: `routed` of each block with a router.
        of_streams: errors of the residual stream after each block.
        of_outputs: errors of the graphs' outputs.
    """

    with_layers: bool
    tokens: Share = field(default_factory=Share)
    routed: Share = field(default_factory=Share)
    steps: StepTally = field(default_factory=StepTally)
    of_experts: dict[str, Share] = field(default_factory=dict)
    of_streams: dict[str, ErrorTally] = field(default_factory=dict)
    of_outputs: dict[str, ErrorTally] = field(default_factory=dict)

    def update(self, batch: Batch, baseline: Seen, candidate: Seen) -> None:
        """Count what two variants make of a batch, all of it finite."""
        for block, experts in baseline.experts.items():
            same = experts == candidate.experts[block]
            self.of_experts.setdefault(block, Share()).update(same)
            self.routed.update(same)
        for name, stream in baseline.streams.items() if self.with_layers else ():
            self.of_streams.setdefault(name, ErrorTally()).update(stream, candidate.streams[name])
        for name, output in baseline.outputs.items():
            self._update_output(batch, name, output, candidate.outputs[name])

    def _update_output(self, batch: Batch, name: str, baseline: Array, candidate: Array) -> None:
        powers = self.of_outputs.setdefault(name, ErrorTally()).update(baseline, candidate)
        if name == names.LOGITS:
            self.steps.update(np.nonzero(batch.label_mask)[1], powers)
            self.tokens.update(baseline.argmax(axis=1) == candidate.argmax(axis=1))

    def merge(self, other: "PairTally") -> None:
        """Count what another has counted of other documents."""
        self.tokens.merge(other.tokens)
        self.routed.merge(other.routed)
        self.steps.merge(other.steps)
        for block, share in other.of_experts.items():
            self.of_experts.setdefault(block, Share()).merge(share)
        for ours, theirs in ((self.of_streams, other.of_streams), (self.of_outputs, other.of_outputs)):
            for name, errors in theirs.items():
                ours.setdefault(name, ErrorTally()).merge(errors)

    def outputs(self) -> tuple[TensorErrors, ...]:
        """Of the graphs' outputs, in the order of computation."""
        return tuple(tally.result(name) for name, tally in self.of_outputs.items())

    def layers(self) -> tuple[TensorErrors, ...]:
        """Of the residual stream after each block, likewise; none where it was not to be compared."""
        return tuple(tally.result(name) for name, tally in self.of_streams.items())

    def experts(self) -> tuple[ExpertAgreement, ...]:
        """Of each sparse layer, likewise."""
        return tuple(ExpertAgreement(layer=block, share=share.value) for block, share in self.of_experts.items())

"""What is counted of each variant, and of a candidate beside the baseline, batch by batch."""

import numpy as np
from numpy.typing import NDArray

from pointsman.bundle import names
from pointsman_calib.comparison.measuring.errors import ErrorTally, Share, StepTally
from pointsman_calib.comparison.measuring.intervals import DocumentLosses
from pointsman_calib.comparison.measuring.probes import Array, Seen
from pointsman_calib.comparison.records import ExpertAgreement, LayerCoverage, NonFinite, TensorErrors
from pointsman_calib.corpus.batches import Batch
from pointsman_calib.settle.losses import token_losses


class VariantTally:
    """What is counted of a variant by itself.

    Attributes:
        losses: of each document.
        non_finite: of the first layers and batch that have any; nothing is counted from then on.
    """

    def __init__(self, num_experts: int) -> None:
        self.losses = DocumentLosses()
        self.non_finite: tuple[NonFinite, ...] = ()
        self._coverage: dict[str, NDArray[np.int64]] = {}
        self._num_experts = num_experts

    def update(self, batch: Batch, seen: Seen) -> bool:
        """Count what a piece makes of a batch; returns whether all its values, and all before, were finite."""
        self.non_finite = self.non_finite or tuple(seen.non_finite())
        if self.non_finite:
            return False
        for block, experts in seen.experts.items():
            counts = np.bincount(experts, minlength=self._num_experts)
            self._coverage[block] = self._coverage.get(block, 0) + counts
        if names.LOGITS in seen.outputs:
            losses = token_losses(seen.outputs[names.LOGITS], batch.labels[batch.label_mask])
            self.losses.update(losses, batch.span_mask, batch.label_mask)
        return True

    def coverage(self) -> tuple[LayerCoverage, ...]:
        """Tokens of each expert of each sparse layer, in the order of computation."""
        return tuple(
            LayerCoverage(layer=block, tokens=tuple(counts.tolist())) for block, counts in self._coverage.items()
        )


class PairTally:
    """What is counted of a candidate beside the baseline.

    Attributes:
        tokens: label positions at which both find the same token likeliest.
        routed: tokens, of all sparse layers, that both send to the same expert.
        steps: of the logits.
    """

    def __init__(self, *, layers: bool) -> None:
        """Count nothing yet; `layers` says whether to compare the residual stream after each block."""
        self.tokens, self.routed, self.steps = Share(), Share(), StepTally()
        self._layers = layers
        self._experts: dict[str, Share] = {}
        self._streams: dict[str, ErrorTally] = {}
        self._outputs: dict[str, ErrorTally] = {}

    def update(self, batch: Batch, baseline: Seen, candidate: Seen) -> None:
        """Count what two variants make of a batch, all of it finite."""
        for block, experts in baseline.experts.items():
            same = experts == candidate.experts[block]
            self._experts.setdefault(block, Share()).update(same)
            self.routed.update(same)
        for name, stream in baseline.streams.items() if self._layers else ():
            self._streams.setdefault(name, ErrorTally()).update(stream, candidate.streams[name])
        for name, output in baseline.outputs.items():
            self._update_output(batch, name, output, candidate.outputs[name])

    def _update_output(self, batch: Batch, name: str, baseline: Array, candidate: Array) -> None:
        powers = self._outputs.setdefault(name, ErrorTally()).update(baseline, candidate)
        if name == names.LOGITS:
            self.steps.update(np.nonzero(batch.label_mask)[1], powers)
            self.tokens.update(baseline.argmax(axis=1) == candidate.argmax(axis=1))

    def outputs(self) -> tuple[TensorErrors, ...]:
        """Of the graphs' outputs, in the order of computation."""
        return tuple(tally.result(name) for name, tally in self._outputs.items())

    def layers(self) -> tuple[TensorErrors, ...]:
        """Of the residual stream after each block, likewise; none where it was not to be compared."""
        return tuple(tally.result(name) for name, tally in self._streams.items())

    def experts(self) -> tuple[ExpertAgreement, ...]:
        """Of each sparse layer, likewise."""
        return tuple(ExpertAgreement(layer=block, share=share.value) for block, share in self._experts.items())

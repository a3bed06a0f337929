"""What is counted of each variant, and of each candidate beside the baseline, batch by batch."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from pointsman_calib.comparison.exposure import EXPERTS, NON_FINITE
from pointsman_calib.comparison.loss import DocumentLosses, token_losses
from pointsman_calib.comparison.metrics import Array, ErrorTally, Share, StepTally
from pointsman_calib.comparison.records import ExpertAgreement, ExpertCoverage, NonFinite, TensorErrors
from pointsman_calib.corpus.batches import Batch

Outputs = Mapping[str, Array]
"""What `TeacherForcingRunner` gives for a batch."""

LOGITS = "logits"


class VariantTally:
    """What is counted of a variant by itself.

    Attributes:
        losses: of each document.
        non_finite: of the first batch that has any; nothing is counted from then on.
    """

    def __init__(self, num_experts: int) -> None:
        self.losses = DocumentLosses()
        self.non_finite: tuple[NonFinite, ...] = ()
        self._coverage: dict[str, NDArray[np.int64]] = {}
        self._num_experts = num_experts

    def update(self, batch: Batch, outputs: Outputs) -> bool:
        """Count a batch; returns whether all its values, and all before, were finite."""
        self.non_finite = self.non_finite or tuple(non_finite(outputs))
        if self.non_finite:
            return False
        labels = batch.labels[batch.label_mask]
        self.losses.update(token_losses(outputs[LOGITS], labels), batch.span_mask, batch.label_mask)
        for name, experts in outputs.items():
            if name.endswith(EXPERTS):
                counts = np.bincount(experts, minlength=self._num_experts)
                self._coverage[name] = self._coverage.get(name, 0) + counts
        return True

    def coverage(self) -> tuple[ExpertCoverage, ...]:
        """Tokens of each expert of each sparse layer, in the order of computation."""
        return tuple(
            ExpertCoverage(layer=name.removesuffix(EXPERTS), tokens=tuple(counts.tolist()))
            for name, counts in self._coverage.items()
        )


class PairTally:
    """What is counted of a candidate beside the baseline.

    Attributes:
        tokens: label positions at which both find the same token likeliest.
        routed: tokens, of all sparse layers, that both send to the same expert.
        steps: of the logits.
    """

    def __init__(self) -> None:
        self.tokens, self.routed, self.steps = Share(), Share(), StepTally()
        self._experts: dict[str, Share] = {}
        self._errors: dict[str, ErrorTally] = {}

    def update(self, batch: Batch, baseline: Outputs, candidate: Outputs) -> None:
        """Count a batch of finite outputs."""
        for name, value in baseline.items():
            if name.endswith(EXPERTS):
                same = value == candidate[name]
                self._experts.setdefault(name, Share()).update(same)
                self.routed.update(same)
            elif not name.endswith(NON_FINITE):
                powers = self._errors.setdefault(name, ErrorTally()).update(value, candidate[name])
                if name == LOGITS:
                    self.steps.update(np.nonzero(batch.label_mask)[1], powers)
        self.tokens.update(baseline[LOGITS].argmax(axis=1) == candidate[LOGITS].argmax(axis=1))

    def errors(self, *, layers: bool) -> tuple[TensorErrors, ...]:
        """Of the residual stream after each block, or of the graphs' outputs."""
        return tuple(tally.result(name) for name, tally in self._errors.items() if (".block." in name) is layers)

    def experts(self) -> tuple[ExpertAgreement, ...]:
        """Of each sparse layer, in the order of computation."""
        return tuple(
            ExpertAgreement(layer=name.removesuffix(EXPERTS), share=share.value)
            for name, share in self._experts.items()
        )


def non_finite(outputs: Outputs) -> Iterator[NonFinite]:
    """Tensors that hold NaN or infinity: those that were counted in the graph, and those that are given."""
    for name, value in outputs.items():
        counted = name.endswith(NON_FINITE)
        count = int(value) if counted else int(value.size - np.count_nonzero(np.isfinite(value)))
        if count:
            yield NonFinite(name=name.removesuffix(NON_FINITE), values=count)

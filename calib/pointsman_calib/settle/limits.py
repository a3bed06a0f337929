"""What a calibrated variant is held to."""

from dataclasses import dataclass
from typing import Final

from pointsman.bundle import Scheme
from pointsman.errors import OptionsError
from pointsman_calib.settle.scores import Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a variant may lose on the calibration text, and how well that must reach the experts.

    Attributes:
        max_loss_increase: of the span loss, in percent of the float variant's.
        min_agreement: percent of span tokens, under teacher forcing, that are the float variant's.
        min_expert_agreement: percent of tokens, over all sparse layers, that go to the float variant's expert.
        min_expert_tokens: an expert that is given fewer tokens is rounded to nearest.
        max_thin_experts: share of all experts that may be given fewer.
    """

    max_loss_increase: float
    min_agreement: float
    min_expert_agreement: float = 0
    min_expert_tokens: int = 64
    max_thin_experts: float = 1.0

    def __post_init__(self) -> None:
        if not self.max_loss_increase >= 0:  # NaN is refused too
            raise OptionsError(f"the largest loss increase is {self.max_loss_increase:g}; give 0 percent or more")
        if not 0 <= self.min_agreement <= 100:
            raise OptionsError(f"the least agreement is {self.min_agreement:g}; give 0 to 100 percent")
        if not 0 <= self.min_expert_agreement <= 100:
            raise OptionsError(f"the least expert agreement is {self.min_expert_agreement:g}; give 0 to 100 percent")
        if self.min_expert_tokens < 0:
            raise OptionsError(f"the fewest tokens of an expert are {self.min_expert_tokens}; give 0 or more")
        if not 0 <= self.max_thin_experts <= 1:
            raise OptionsError(f"the share of thin experts is {self.max_thin_experts:g}; give 0 to 1")

    def hold(self, quantized: Scores, exact: Scores) -> bool:
        """Whether a variant loses little enough beside the float one."""
        return (
            100 * quantized.increase_over(exact) <= self.max_loss_increase
            and 100 * quantized.agreement_with(exact) >= self.min_agreement
            and self.hold_routes(quantized, exact)
        )

    def hold_routes(self, quantized: Scores, exact: Scores) -> bool:
        """Whether a variant sends enough tokens where the float one does."""
        return 100 * (1 - quantized.rerouted_from(exact)) >= self.min_expert_agreement


# On text that was not calibrated on, agreement is lower by chance alone: these leave a little room above 99 %, 95 % and
# 97 % of labels, and above 99.5 % of tokens at the float variant's expert.
DEFAULT_LIMITS: Final[dict[Scheme, Limits]] = {
    "int8": Limits(max_loss_increase=0.3, min_agreement=99.2, min_expert_agreement=99.55),
    "int4": Limits(max_loss_increase=1.5, min_agreement=95.5),
    "int8-qdq": Limits(max_loss_increase=1.0, min_agreement=97.3),
}

"""What a calibrated variant is held to."""

from dataclasses import dataclass
from typing import Final

from pointsman.errors import OptionsError
from pointsman.manifest import Scheme
from pointsman_calib.weight_only.scores import Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a variant may lose on the calibration text, and how well that must reach the experts.

    Attributes:
        max_loss_increase: of the span loss, in percent of the float variant's.
        min_agreement: percent of span tokens, under teacher forcing, that are the float variant's.
        min_expert_tokens: an expert that is given fewer tokens is rounded to nearest.
        max_thin_experts: share of all experts that may be given fewer.
    """

    max_loss_increase: float
    min_agreement: float
    min_expert_tokens: int = 64
    max_thin_experts: float = 1.0

    def __post_init__(self) -> None:
        if self.max_loss_increase < 0:
            raise OptionsError(f"the largest loss increase is {self.max_loss_increase:g}; give 0 percent or more")
        if not 0 <= self.min_agreement <= 100:
            raise OptionsError(f"the least agreement is {self.min_agreement:g}; give 0 to 100 percent")
        if self.min_expert_tokens < 0:
            raise OptionsError(f"the fewest tokens of an expert are {self.min_expert_tokens}; give 0 or more")
        if not 0 <= self.max_thin_experts <= 1:
            raise OptionsError(f"the share of thin experts is {self.max_thin_experts:g}; give 0 to 1")

    def hold(self, quantized: Scores, exact: Scores) -> bool:
        """Whether a variant loses little enough beside the float one."""
        return (
            100 * quantized.increase_over(exact) <= self.max_loss_increase
            and 100 * quantized.agreement_with(exact) >= self.min_agreement
        )


# Agreement on text that was not calibrated on is lower by chance alone: these leave a little room above 99 % and 95 %.
DEFAULT_LIMITS: Final[dict[Scheme, Limits]] = {
    "int8": Limits(max_loss_increase=0.3, min_agreement=99.2),
    "int4": Limits(max_loss_increase=1.5, min_agreement=95.5),
}

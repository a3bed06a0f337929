"""What a quantized variant is held to, beside the float one: when it is made, and when it is compared."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pointsman.bundle import Fidelity, Scheme
from pointsman.errors import OptionsError
from pointsman_calib.settle.scores import Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How far a variant may be from the one that it is judged by; null is no limit.

    Attributes:
        max_loss_increase: of the span loss, in percent.
        min_agreement: percent of labels for which both have the same likeliest token, under teacher forcing.
        min_expert_agreement: percent of tokens, over all sparse layers, that both send to the same expert.
        min_sqnr: dB, of the logits; only comparisons measure it.
    """

    max_loss_increase: float | None = None
    min_agreement: float | None = None
    min_expert_agreement: float | None = None
    min_sqnr: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            OptionsError: a limit is out of range.
        """
        _check("the largest loss increase", self.max_loss_increase, "0 percent or more")
        _check("the least agreement", self.min_agreement, "0 to 100 percent", 100)
        _check("the least expert agreement", self.min_expert_agreement, "0 to 100 percent", 100)
        _check("the least signal-to-noise ratio", self.min_sqnr, "0 dB or more")

    def failures(self, fidelity: Fidelity, sqnr_db: float | None = None) -> Iterator[str]:
        """A sentence for each limit that does not hold.

        Args:
            fidelity: how near the variant is.
            sqnr_db: of the logits; None where it is not measured, or nothing differs.
        """
        increase, most = 100 * fidelity.loss_increase, self.max_loss_increase
        if most is not None and not increase <= most:  # NaN does not hold either
            yield f"the loss is {increase:.3g} % above the baseline's; at most {most:g} % is allowed"
        yield from _too_few("are the baseline's", fidelity.agreement, self.min_agreement)
        yield from _too_few("go to the baseline's expert", fidelity.expert_agreement, self.min_expert_agreement)
        if sqnr_db is not None and self.min_sqnr is not None and sqnr_db < self.min_sqnr:
            yield f"the logits' signal is {sqnr_db:.3g} dB above the error; it must be {self.min_sqnr:g} dB at least"

    def hold(self, quantized: Scores, exact: Scores) -> bool:
        """Whether a variant is near enough to the float one."""
        return not any(self.failures(quantized.fidelity_to(exact)))

    def hold_routes(self, quantized: Scores, exact: Scores) -> bool:
        """Whether a variant sends enough tokens where the float one does."""
        shares = quantized.fidelity_to(exact)
        return not any(_too_few("", shares.expert_agreement, self.min_expert_agreement))


def _check(what: str, limit: float | None, wanted: str, most: float = math.inf) -> None:
    if limit is not None and not (0 <= limit <= most and math.isfinite(limit)):
        raise OptionsError(f"{what} is {limit:g}; give {wanted}")


_ROUNDING: Final = 1e-9
"""Percent. 944 of 1,000 are 94.4 %, which no two doubles say alike."""


def _too_few(what: str, share: float, least: float | None) -> Iterator[str]:
    if least is not None and not 100 * share >= least - _ROUNDING:
        yield f"{100 * share:.4g} % of tokens {what}; at least {least:g} % must be so"


# On text that was not calibrated on, agreement is lower by chance alone: these leave a little room above 99 %, 95 % and
# 97 % of labels, and above 99.5 % of tokens at the float variant's expert.
DEFAULT_LIMITS: Final[dict[Scheme, Limits]] = {
    "int8": Limits(max_loss_increase=0.3, min_agreement=99.2, min_expert_agreement=99.55),
    "int4": Limits(max_loss_increase=1.5, min_agreement=95.5),
    "int8-qdq": Limits(max_loss_increase=1.0, min_agreement=97.3),
}

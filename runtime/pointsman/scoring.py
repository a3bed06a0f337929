"""How many targets are scored at a time, and how many tokens of each, so that memory does not grow with them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self, TypeVar

from pointsman.bundle import Architecture, Variant
from pointsman.errors import OptionsError

_BYTES: Final = 1 << 27  # for what grows with the tokens of a step
_MOST_BYTES: Final = 1 << 32  # where a target can be fed in no other way than whole
_LOGIT_BYTES: Final = 4
_WEIGHT_BYTES: Final = {"bfloat16": 2, "float16": 2}  # as products take them; 4 in all other precisions

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Portion:
    """What is fed in one step.

    Attributes:
        rows: targets, at most.
        positions: tokens of each, at most.
    """

    rows: int
    positions: int

    @classmethod
    def of(
        cls,
        variant: Variant,
        architecture: Architecture,
        *,
        targets: int,
        longest: int,
        most_positions: int | None = None,
    ) -> Self:
        """The portion that takes bounded memory and changes no result.

        An expert's capacity is counted over the tokens of a target that one step feeds. A target that is longer can
        overflow an expert, and is fed whole; no shorter one can, however it is cut.

        Args:
            variant: what runs.
            architecture: its sizes.
            targets: how many there are.
            longest: tokens of the longest.
            most_positions: that the engine takes in a step; None for any.

        Raises:
            OptionsError: a target must be fed whole, and would take gigabytes of experts' weights or more positions
                than the engine takes.
        """
        each = _bytes_of_token(variant, architecture)
        tokens = max(1, _BYTES // each)
        if architecture.decoder.sparse_layers and variant.capacity is not None and longest > variant.capacity:
            if most_positions is not None and longest > most_positions:
                raise OptionsError(
                    f"a target of {longest} tokens has to be fed whole, since the experts' capacity of "
                    f"{variant.capacity} is counted over all of it, and this engine takes {most_positions} at a time; "
                    "score on the CPU, or export it with `pointsman-export bundle --capacity none`"
                )
            if longest * each > _MOST_BYTES:
                raise OptionsError(
                    f"a target of {longest} tokens would fetch {longest * each / 1e9:.1f} GB of experts at once, since "
                    f"the capacity of {variant.capacity} is counted over all of it; score with a fused variant, or "
                    "export it with `pointsman-export bundle --capacity none`"
                )
            return cls(rows=max(1, tokens // longest), positions=longest)
        rows = min(targets, tokens)
        return cls(rows=rows, positions=tokens // rows)


def _bytes_of_token(variant: Variant, architecture: Architecture) -> int:
    """The logits; and where the portable form fetches the weights of each token's expert, those of one product."""
    logits = architecture.vocab_size * _LOGIT_BYTES
    if variant.form != "portable" or not architecture.decoder.sparse_layers:
        return logits
    return logits + architecture.d_model * architecture.d_ff * _WEIGHT_BYTES.get(variant.precision, 4)


def shared_out(
    sources: Sequence[_Item], targets: Sequence[_Item], rows: int
) -> Iterator[tuple[Sequence[_Item], Sequence[_Item]]]:
    """Sources and their targets, equally many for each source, in parts of at most so many targets."""
    each = len(targets) // len(sources)
    if each <= rows:
        count = rows // each
        for first in range(0, len(sources), count):
            yield sources[first : first + count], targets[each * first : each * (first + count)]
        return
    for number in range(len(sources)):
        for first in range(each * number, each * (number + 1), rows):
            yield sources[number : number + 1], targets[first : min(first + rows, each * (number + 1))]

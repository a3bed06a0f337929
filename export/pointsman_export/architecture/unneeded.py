"""Tensors that checkpoints hold and no model needs: all others that are not used stop an export."""

import re
from collections.abc import Iterable, Mapping

from pointsman.bundle.names import CROSS_ATTENTION, block_of, block_path, relative_bias
from pointsman.errors import CheckpointError
from pointsman.wording import first_few
from pointsman_export.checkpoint.adapter import SameValues

_REASONS: Mapping[str, str] = {
    rf".+\.{CROSS_ATTENTION}\.relative_attention_bias\.weight": (
        "cross-attention has no position bias; early T5 code made one"
    ),
    r".+\.expert_capacity": "a buffer; the capacity comes from config.json",
    r"(.+\.)?position_ids": "a buffer of positions, which follow from the input",
    r"(optimizer|optim|lr_scheduler|scheduler|grad_scaler|rng_state)\b.*": "the trainer's state",
}


def unneeded(unused: Iterable[str], same_values: SameValues) -> dict[str, str]:
    """Those of the unused tensors that are known to be unneeded, with the reason.

    Args:
        unused: Names that no part of the model has.
        same_values: Whether two tensors hold the same numbers: of position biases, those of block 0 are every block's.
    """
    return {name: reason for name in unused if (reason := _reason(name, same_values))}


def _reason(name: str, same_values: SameValues) -> str | None:
    if (bias := _bias_that_it_repeats(name)) is not None:
        return "a copy of block 0's, which all blocks share" if same_values(bias, name) else None
    return next((reason for pattern, reason in _REASONS.items() if re.fullmatch(pattern, name)), None)


def _bias_that_it_repeats(name: str) -> str | None:
    """The position bias of block 0 where the name is that of the same in a later block."""
    block = block_of(name)
    if block is None or block[1] == 0:
        return None
    bias = f"{relative_bias(block[0])}.weight"
    return bias if name == bias.replace(block_path(block[0], 0), block_path(*block), 1) else None


def refuse_unused(names: Iterable[str]) -> None:
    """Refuse tensors that may have a say in what the model computes.

    Args:
        names: Of tensors that are not used and not known to be unneeded.

    Raises:
        CheckpointError: There are some.
    """
    if unused := tuple(names):
        raise CheckpointError(
            f"the checkpoint has tensors that no Switch Transformer has ({len(unused)}): {first_few(unused)}; "
            "export the model that they were added to, or leave them out with `ignore_unused=True`"
        )

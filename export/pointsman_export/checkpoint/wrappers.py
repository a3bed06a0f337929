"""Names as a plain model has them: what wraps a model while it is trained puts words in front of its names."""

import re
from collections.abc import Iterable

from pointsman.errors import CheckpointError
from pointsman.wording import first_few

# Attributes of the wrappers of torch.compile, FSDP and activation checkpointing, which wrap parts of a model too.
_INNER = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# The first module of a name that is the model's own, and what stands before it: `module.`, `model.` or any other.
_ROOT = re.compile(r"((?:[^.]+\.)*?)(encoder\.block|decoder\.block|shared)\.")
_STACKS = {"encoder.block", "decoder.block"}
_TRAINER = re.compile(r"(optim|lr_scheduler)")


def _is_cut_up(names: Iterable[str]) -> bool:
    """Whether what stands under no prefix is a part of a model, of which the rest stands under one."""
    return len({match[2] for name in names if (match := _ROOT.match(name)) and not match[1]} & _STACKS) == 1


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Each name without what wrappers have put into it; a prefix counts if the whole model has it.

    Raises:
        CheckpointError: Parts of a model stand under different prefixes, or two names become one.
    """
    plain = {name: _INNER.sub("", name) for name in names}
    prefixes = {match[1] for name in plain.values() if not _TRAINER.match(name) and (match := _ROOT.match(name))}
    if len(prefixes) > 1 and "" not in prefixes:
        raise CheckpointError(
            f"the checkpoint holds several models, under {first_few(sorted(prefixes))}; save one of them alone"
        )
    if len(prefixes) > 1 and _is_cut_up(plain.values()):
        raise CheckpointError(
            f"parts of the model stand under names of their own, {first_few(sorted(prefixes - {''}))}; "
            "save the model alone"
        )
    prefix = prefixes.pop() if len(prefixes) == 1 else ""
    plain = {name: short.removeprefix(prefix) for name, short in plain.items()}
    if len(set(plain.values())) < len(plain):
        twice = next(short for short in plain.values() if [*plain.values()].count(short) > 1)
        raise CheckpointError(f"the checkpoint has {twice} twice, once in a wrapper; save the model alone")
    return plain

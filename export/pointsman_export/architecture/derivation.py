"""From the tensors of a checkpoint to an architecture."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from statistics import mode

from pointsman.bundle import ROLES, Architecture, Role, Stack
from pointsman.bundle.names import (
    EMBEDDINGS,
    SELF_ATTENTION,
    block_of,
    experts_layer,
    is_router,
    relative_bias,
    router_bias,
    router_weight,
)
from pointsman.errors import CheckpointError
from pointsman.wording import first_few
from pointsman_export.architecture import ends
from pointsman_export.architecture.complaints import check_complete, check_dtypes, check_gathered
from pointsman_export.architecture.ends import HEAD_NAMES, Ends, find_ends
from pointsman_export.architecture.hints import Config, disagreements, read_activation, read_hints
from pointsman_export.architecture.tensors import expected_tensors
from pointsman_export.architecture.unneeded import unneeded
from pointsman_export.checkpoint import Checkpoint, TensorInfo
from pointsman_export.checkpoint.adapter import SameValues

_FEWEST_BUCKETS = 4  # the encoder has half of them for each direction, and half of those for near distances

Tensors = Mapping[str, TensorInfo]


@dataclass(frozen=True, slots=True)
class Derivation:
    """What a checkpoint turned out to be.

    Attributes:
        architecture: The model.
        names: For each tensor of the model, by its name in `expected_tensors`, its name in the checkpoint.
        disagreements: Where ``config.json`` contradicts the weights, one sentence each; the weights won.
        unneeded: Names of tensors that are no part of the model, and why it does not need them.
        unused: Names of all others that are no part of it.
    """

    architecture: Architecture
    names: Mapping[str, str]
    disagreements: tuple[str, ...]
    unneeded: Mapping[str, str]
    unused: tuple[str, ...]


def derive_from(checkpoint: Checkpoint) -> Derivation:
    """Derive the architecture of an open checkpoint; see `derive`."""
    derivation = derive(checkpoint.tensors, checkpoint.config, same_values=checkpoint.same_values)
    if not checkpoint.is_t5x:
        return derivation
    # T5X counts an expert's capacity over groups of a whole batch: no number for a sequence is the checkpoint's own.
    return replace(derivation, architecture=replace(derivation.architecture, expert_capacity=None))


def derive(tensors: Tensors, config: Config, *, same_values: SameValues) -> Derivation:
    """Derive an architecture from the tensors that are present.

    Args:
        tensors: Every tensor by its name.
        config: What ``config.json`` says.
        same_values: Whether two of the tensors hold the same numbers. Asked only of tensors that can be copies
            of the embeddings, the head or a position bias: names cannot tell a tied head that was written out from a
            head of its own.

    Raises:
        CheckpointError: Tensors are missing, empty, misshapen or of a dtype that is not supported, names of one tensor
            hold different numbers, or the config gives impossible values.
    """
    check_gathered(tensors)
    check_dtypes(tensors, (*EMBEDDINGS, *HEAD_NAMES))  # before their values are compared
    found = find_ends(tensors, config, same_values)
    architecture = _architecture(tensors, config, found)
    expected = expected_tensors(architecture)
    names = dict(zip(expected, expected, strict=True)) | found.names
    check_complete(tensors, expected, names)
    check_dtypes(tensors, names.values())
    unused = sorted(tensors.keys() - set(names.values()) - found.others)
    reasons = unneeded(unused, same_values)
    return Derivation(
        architecture=architecture,
        names=names,
        disagreements=(*disagreements(config, architecture), *ends.disagreements(config, found)),
        unneeded=reasons,
        unused=tuple(name for name in unused if name not in reasons),
    )


def _architecture(tensors: Tensors, config: Config, found: Ends) -> Architecture:
    vocab_size, d_model = _matrix(tensors, [found.encoder], "embedding")
    buckets, num_heads = _matrix(
        tensors,
        [f"{relative_bias(role)}.weight" for role in ROLES],
        "relative position bias",
    )
    if buckets < _FEWEST_BUCKETS or not num_heads:
        raise CheckpointError(
            f"the relative position bias has {buckets} buckets and {num_heads} heads, and needs {_FEWEST_BUCKETS} "
            "and 1; use an intact checkpoint"
        )
    inner, _ = _matrix(
        tensors, (name for name in tensors if name.endswith(f"{SELF_ATTENTION}.q.weight")), "query projection"
    )
    if inner % num_heads:
        raise CheckpointError(
            f"{inner} rows of queries cannot be split into {num_heads} heads; use an intact checkpoint"
        )
    encoder, decoder = _stacks(tensors)
    first_projections = [name for name in tensors if name.endswith((".wi.weight", ".wi_0.weight"))]
    gated = any(name.endswith(".wi_0.weight") for name in first_projections)
    return Architecture(
        vocab_size=vocab_size,
        d_model=d_model,
        d_kv=inner // num_heads,
        d_ff=_matrix(tensors, first_projections, "FFN projection")[0],
        num_heads=num_heads,
        num_experts=_num_experts(tensors, (encoder, decoder)),
        encoder=encoder,
        decoder=decoder,
        gated=gated,
        activation=read_activation(config, gated=gated),
        router_bias=any(name.endswith(router_bias("mlp")) for name in tensors),
        tied_head=found.head is None,
        relative_buckets=buckets,
        separate_embeddings=found.encoder != found.decoder,
        scaled_head=found.scaled_head,
        **asdict(read_hints(config, vocab_size, buckets)),
    )


def _matrix(tensors: Tensors, names: Iterable[str], what: str) -> tuple[int, int]:
    """The shape that most of the named matrices have, so that one misshapen tensor is not taken for the rule."""
    shapes = [tensors[name].shape for name in names if name in tensors and len(tensors[name].shape) == 2]
    if not shapes:
        raise CheckpointError(f"the checkpoint has no {what}; use a complete Switch checkpoint")
    rows, columns = mode(shapes)
    return rows, columns


def _num_experts(tensors: Tensors, stacks: Iterable[Stack]) -> int:
    if not any(stack.sparse_layers for stack in stacks):
        return 0
    router = router_weight("mlp")
    routers = [info.shape[0] for name, info in tensors.items() if name.endswith(router) and info.shape]
    if not routers:
        raise CheckpointError(f"the checkpoint has experts and no router ({router}); use a complete one")
    return mode(routers)


def _stacks(tensors: Tensors) -> tuple[Stack, Stack]:
    blocks: dict[Role, set[int]] = defaultdict(set)
    sparse: dict[Role, set[int]] = defaultdict(set)
    for name in tensors:
        if block := block_of(name):
            role, number = block
            blocks[role].add(number)
            if is_router(name) or experts_layer(name):
                sparse[role].add(number)
    encoder, decoder = (_stack(role, blocks[role], sparse[role]) for role in ROLES)
    return encoder, decoder


def _stack(role: Role, blocks: set[int], sparse: set[int]) -> Stack:
    if not blocks:
        raise CheckpointError(f"the checkpoint has no {role} blocks; use a complete Switch encoder-decoder")
    if absent := set(range(len(blocks))) - blocks:
        raise CheckpointError(
            f"the checkpoint has {role} block {max(blocks)} and lacks {first_few(sorted(absent))}; use a complete one"
        )
    return Stack(layers=len(blocks), sparse_layers=tuple(sorted(sparse)))

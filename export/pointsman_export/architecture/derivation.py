"""From the tensors of a checkpoint to an architecture."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mode

from pointsman.bundle import Architecture, Stack
from pointsman.bundle.names import EMBEDDING, HEAD
from pointsman.errors import CheckpointError
from pointsman.wording import first_few
from pointsman_export.architecture.complaints import check_complete, check_dtypes
from pointsman_export.architecture.hints import (
    Config,
    disagreements,
    head_disagreements,
    read_activation,
    read_hints,
    says_untied,
)
from pointsman_export.architecture.tensors import expected_tensors
from pointsman_export.checkpoint import Checkpoint, TensorInfo

_EMBEDDING_NAMES = (EMBEDDING, "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_HEAD_NAMES = (HEAD, f"decoder.{HEAD}")  # xxl-128 and c-2048 are published with the second
_BLOCK = re.compile(r"(encoder|decoder)\.block\.(\d+)\.(layer\.\d\.mlp\.(?:router|experts)\.)?")
_ROUTER = "mlp.router.classifier.weight"
_RELATIVE_BIAS = "layer.0.SelfAttention.relative_attention_bias.weight"
_FEWEST_BUCKETS = 4  # the encoder has half of them for each direction, and half of those for near distances

Tensors = Mapping[str, TensorInfo]
SameValues = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True)
class Derivation:
    """What a checkpoint turned out to be.

    Attributes:
        architecture: The model.
        names: For each tensor of the model, by its name in `expected_tensors`, its name in the checkpoint.
        disagreements: Where ``config.json`` contradicts the weights, one sentence each; the weights won.
        unused: Names of tensors that are no part of the model.
    """

    architecture: Architecture
    names: Mapping[str, str]
    disagreements: tuple[str, ...]
    unused: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Ends:
    """The names in the checkpoint of the embedding and, where it is not the embedding, of the head; copies of both."""

    embedding: str
    head: str | None
    copies: frozenset[str]


def derive_from(checkpoint: Checkpoint) -> Derivation:
    """Derive the architecture of an open checkpoint; see `derive`."""
    return derive(checkpoint.tensors, checkpoint.config, same_values=checkpoint.same_values)


def derive(tensors: Tensors, config: Config, *, same_values: SameValues) -> Derivation:
    """Derive an architecture from the tensors that are present.

    Args:
        tensors: Every tensor by its name.
        config: What ``config.json`` says.
        same_values: Whether two of the tensors hold the same numbers. Asked only of tensors that can be copies
            of the embedding or the head: names cannot tell a tied head that was written out from a head of its own.

    Raises:
        CheckpointError: Tensors are missing, misshapen or of a dtype that is not supported, names of one tensor hold
            different numbers, or the config gives impossible values.
    """
    check_dtypes(tensors, (*_EMBEDDING_NAMES, *_HEAD_NAMES))  # before their values are compared
    ends = _ends(tensors, config, same_values)
    architecture = _architecture(tensors, config, ends)
    expected = expected_tensors(architecture)
    names = dict(zip(expected, expected, strict=True)) | {EMBEDDING: ends.embedding}
    if ends.head is not None:
        names[HEAD] = ends.head
    check_complete(tensors, expected, names)
    check_dtypes(tensors, names.values())
    return Derivation(
        architecture=architecture,
        names=names,
        disagreements=(*disagreements(config, architecture), *head_disagreements(config, ends.head)),
        unused=tuple(sorted(tensors.keys() - set(names.values()) - ends.copies)),
    )


def _ends(tensors: Tensors, config: Config, same_values: SameValues) -> _Ends:
    embeddings = [name for name in _EMBEDDING_NAMES if name in tensors]
    heads = [name for name in _HEAD_NAMES if name in tensors]
    untied = says_untied(config)
    if untied and not heads:
        raise CheckpointError(
            f"config.json says tie_word_embeddings is false, and the checkpoint has no head "
            f"({' or '.join(_HEAD_NAMES)}); use a complete one"
        )
    if not embeddings and HEAD in heads and not untied:
        # Writers that store a tied tensor once are free to store it under any of its names.
        embeddings = [HEAD]
    if not embeddings:
        raise CheckpointError(f"the checkpoint has no embedding ({EMBEDDING}); use a complete one")
    _check_same(embeddings, same_values, "encoder and decoder must share one embedding, as Switch's do")
    _check_same(heads, same_values, "use a checkpoint with one head")
    # A head that is there and said to be untied is taken at its word whatever its values: whether the decoder's
    # output is scaled hangs on it, which no tensor shows.
    tied = not heads or (not untied and (embeddings[0] in heads or same_values(embeddings[0], heads[0])))
    head = None if tied else heads[0]
    return _Ends(embeddings[0], head, frozenset([*embeddings, *heads]))


def _check_same(copies: Sequence[str], same_values: SameValues, advice: str) -> None:
    """Refuse tensors that are names of one thing and hold different numbers."""
    if different := [name for name in copies[1:] if not same_values(copies[0], name)]:
        raise CheckpointError(f"{different[0]} differs from {copies[0]}; {advice}")


def _architecture(tensors: Tensors, config: Config, ends: _Ends) -> Architecture:
    vocab_size, d_model = _matrix(tensors, [ends.embedding], "embedding")
    buckets, num_heads = _matrix(
        tensors,
        [f"{side}.block.0.{_RELATIVE_BIAS}" for side in ("encoder", "decoder")],
        "relative position bias",
    )
    if buckets < _FEWEST_BUCKETS or not num_heads:
        raise CheckpointError(
            f"the relative position bias has {buckets} buckets and {num_heads} heads, and needs {_FEWEST_BUCKETS} "
            "and 1; use an intact checkpoint"
        )
    inner, _ = _matrix(
        tensors, (name for name in tensors if name.endswith("SelfAttention.q.weight")), "query projection"
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
        router_bias=any(name.endswith("mlp.router.classifier.bias") for name in tensors),
        tied_head=ends.head is None,
        relative_buckets=buckets,
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
    routers = [info.shape[0] for name, info in tensors.items() if name.endswith(_ROUTER) and info.shape]
    if not routers:
        raise CheckpointError(f"the checkpoint has experts and no router ({_ROUTER}); use a complete one")
    return mode(routers)


def _stacks(tensors: Tensors) -> tuple[Stack, Stack]:
    blocks: dict[str, set[int]] = defaultdict(set)
    sparse: dict[str, set[int]] = defaultdict(set)
    for name in tensors:
        if match := _BLOCK.match(name):
            side, block, mixture = match[1], int(match[2]), match[3]
            blocks[side].add(block)
            if mixture:
                sparse[side].add(block)
    encoder, decoder = (_stack(side, blocks[side], sparse[side]) for side in ("encoder", "decoder"))
    return encoder, decoder


def _stack(side: str, blocks: set[int], sparse: set[int]) -> Stack:
    if not blocks:
        raise CheckpointError(f"the checkpoint has no {side} blocks; use a complete Switch encoder-decoder")
    if absent := set(range(len(blocks))) - blocks:
        raise CheckpointError(
            f"the checkpoint has {side} block {max(blocks)} and lacks {first_few(sorted(absent))}; use a complete one"
        )
    return Stack(layers=len(blocks), sparse_layers=tuple(sorted(sparse)))

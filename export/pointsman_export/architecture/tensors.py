"""The tensors that follow from an architecture."""

from collections.abc import Iterator
from typing import Literal

from pointsman.bundle import Architecture, names

Shape = tuple[int, ...]


def expected_tensors(architecture: Architecture) -> dict[str, Shape]:
    """Name and shape of every tensor of a model, each once and under its Hugging Face name.

    The embedding is ``shared.weight``, unless encoder and decoder have one each; ``lm_head.weight`` is there only when
    the head is not tied.
    """
    embedding = (architecture.vocab_size, architecture.d_model)
    embeddings = names.STACK_EMBEDDINGS if architecture.separate_embeddings else (names.EMBEDDING,)
    tensors: dict[str, Shape] = dict.fromkeys(embeddings, embedding)
    tensors.update(_stack_tensors(architecture, "encoder"))
    tensors.update(_stack_tensors(architecture, "decoder"))
    if not architecture.tied_head:
        tensors[names.HEAD] = embedding
    return tensors


def _stack_tensors(architecture: Architecture, side: Literal["encoder", "decoder"]) -> Iterator[tuple[str, Shape]]:
    stack = architecture.encoder if side == "encoder" else architecture.decoder
    bias = "layer.0.SelfAttention.relative_attention_bias.weight"
    yield f"{side}.block.0.{bias}", (architecture.relative_buckets, architecture.num_heads)
    attentions = ("SelfAttention",) if side == "encoder" else ("SelfAttention", "EncDecAttention")
    sparse = frozenset(stack.sparse_layers)
    for block in range(stack.layers):
        for number, attention in enumerate(attentions):
            yield from _attention_tensors(architecture, f"{side}.block.{block}.layer.{number}", attention)
        feed_forward = f"{side}.block.{block}.layer.{len(attentions)}"
        yield f"{feed_forward}.layer_norm.weight", (architecture.d_model,)
        yield from _feed_forward_tensors(architecture, f"{feed_forward}.mlp", sparse=block in sparse)
    yield f"{side}.final_layer_norm.weight", (architecture.d_model,)


def _attention_tensors(architecture: Architecture, layer: str, attention: str) -> Iterator[tuple[str, Shape]]:
    d_model, inner = architecture.d_model, architecture.num_heads * architecture.d_kv
    yield f"{layer}.layer_norm.weight", (d_model,)
    for projection in ("q", "k", "v"):
        yield f"{layer}.{attention}.{projection}.weight", (inner, d_model)
    yield f"{layer}.{attention}.o.weight", (d_model, inner)


def _feed_forward_tensors(architecture: Architecture, mlp: str, *, sparse: bool) -> Iterator[tuple[str, Shape]]:
    if not sparse:
        yield from _projection_tensors(architecture, mlp)
        return
    yield f"{mlp}.router.classifier.weight", (architecture.num_experts, architecture.d_model)
    if architecture.router_bias:
        yield f"{mlp}.router.classifier.bias", (architecture.num_experts,)
    for expert in range(architecture.num_experts):
        yield from _projection_tensors(architecture, f"{mlp}.experts.expert_{expert}")


def _projection_tensors(architecture: Architecture, ffn: str) -> Iterator[tuple[str, Shape]]:
    for name in ("wi_0", "wi_1") if architecture.gated else ("wi",):
        yield f"{ffn}.{name}.weight", (architecture.d_ff, architecture.d_model)
    yield f"{ffn}.wo.weight", (architecture.d_model, architecture.d_ff)

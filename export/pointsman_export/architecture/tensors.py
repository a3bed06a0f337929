"""The tensors that follow from an architecture."""

from collections.abc import Iterator

from pointsman.bundle import ROLES, Architecture, Role, names

Shape = tuple[int, ...]


def expected_tensors(architecture: Architecture) -> dict[str, Shape]:
    """Name and shape of every tensor of a model, each once and under its Hugging Face name.

    The embedding is ``shared.weight``, unless encoder and decoder have one each; ``lm_head.weight`` is there only when
    the head is not tied.
    """
    embedding = (architecture.vocab_size, architecture.d_model)
    tensors: dict[str, Shape] = dict.fromkeys(map(architecture.embedding, ROLES), embedding)
    tensors.update(_stack_tensors(architecture, "encoder"))
    tensors.update(_stack_tensors(architecture, "decoder"))
    if not architecture.tied_head:
        tensors[names.HEAD] = embedding
    return tensors


def _stack_tensors(architecture: Architecture, role: Role) -> Iterator[tuple[str, Shape]]:
    stack = architecture.stack(role)
    yield f"{names.relative_bias(role)}.weight", (architecture.relative_buckets, architecture.num_heads)
    attentions = [names.SELF_ATTENTION, *([names.CROSS_ATTENTION] if role == "decoder" else [])]
    for number in range(stack.layers):
        block = names.block_path(role, number)
        for layer, attention in enumerate(attentions):
            yield from _attention_tensors(architecture, f"{block}.layer.{layer}", attention)
        feed_forward = f"{block}.layer.{len(attentions)}"
        yield f"{feed_forward}.{names.LAYER_NORM}.weight", (architecture.d_model,)
        tensors_of = _sparse_tensors if number in stack.sparse_layers else _dense_tensors
        yield from tensors_of(architecture, f"{feed_forward}.mlp")
    yield f"{names.final_norm(role)}.weight", (architecture.d_model,)


def _attention_tensors(architecture: Architecture, layer: str, attention: str) -> Iterator[tuple[str, Shape]]:
    d_model, inner = architecture.d_model, architecture.num_heads * architecture.d_kv
    yield f"{layer}.{names.LAYER_NORM}.weight", (d_model,)
    for projection in ("q", "k", "v"):
        yield f"{layer}.{attention}.{projection}.weight", (inner, d_model)
    yield f"{layer}.{attention}.o.weight", (d_model, inner)


def _dense_tensors(architecture: Architecture, mlp: str) -> Iterator[tuple[str, Shape]]:
    for projection, shape in _projections(architecture):
        yield f"{mlp}.{projection}.weight", shape


def _sparse_tensors(architecture: Architecture, mlp: str) -> Iterator[tuple[str, Shape]]:
    yield names.router_weight(mlp), (architecture.num_experts, architecture.d_model)
    if architecture.router_bias:
        yield names.router_bias(mlp), (architecture.num_experts,)
    for expert in range(architecture.num_experts):
        for projection, shape in _projections(architecture):
            yield names.expert_weight(mlp, expert, projection), shape


def _projections(architecture: Architecture) -> Iterator[tuple[str, Shape]]:
    for name in ("wi_0", "wi_1") if architecture.gated else ("wi",):
        yield name, (architecture.d_ff, architecture.d_model)
    yield "wo", (architecture.d_model, architecture.d_ff)

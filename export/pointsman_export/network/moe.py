"""Mixture-of-Experts layers of a Switch Transformer: top-1 routing, and one function per expert dispatch.

Routing follows Fedus et al., "Switch Transformers" (2021), §2.1, as transformers 5.23.0 computes it: the softmax runs
in float32 over all experts, the winner's output is scaled by its probability, and tokens past an expert's capacity,
counted along each sequence, get zero from the layer. An expert's feed-forward network is `activation(x @ wi) @ wo`, or
`activation(x @ wi_0) * (x @ wi_1) @ wo` where it is gated; `input_weights` is `(wi,)` or `(wi_0, wi_1)` throughout.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Activation = Callable[[Tensor], Tensor]

DISPATCH_OP = "pointsman::SwitchExperts"
DROP_OP = "pointsman::DropOverflow"


class Routing(NamedTuple):
    """Where each token goes.

    Attributes:
        expert: int64 [batch, tokens], the chosen expert.
        probability: float32 [batch, tokens], the router's probability of it.
    """

    expert: Tensor
    probability: Tensor


def route(logits: Tensor) -> Routing:
    """Choose one expert per token; of equally likely ones, the first.

    Args:
        logits: float32 [batch, tokens, experts].
    """
    probabilities = torch.softmax(logits, dim=-1)
    return Routing(torch.argmax(probabilities, dim=-1), torch.amax(probabilities, dim=-1))


def rank_in_expert(expert: Tensor, experts: int) -> Tensor:
    """How many earlier tokens of the sequence chose the same expert, int64 [batch, tokens]."""
    chosen = torch.nn.functional.one_hot(expert, experts)
    return (torch.cumsum(chosen, dim=1) * chosen).sum(dim=-1) - 1


def drop_overflow(routing: Routing, experts: int, capacity: int) -> Tensor:
    """The probabilities, with zero for tokens past their expert's capacity: their layer's output is then zero."""
    kept = rank_in_expert(routing.expert, experts) < capacity
    return torch.where(kept, routing.probability, 0.0)


def feed_forward(hidden: Tensor, input_weights: tuple[Tensor, ...], wo: Tensor, activation: Activation) -> Tensor:
    """One expert, or a batch of them.

    Args:
        hidden: [..., tokens, d_model].
        input_weights: each [..., d_model, d_ff].
        wo: [..., d_ff, d_model].
        activation: of the (first) input projection.

    Returns:
        [..., tokens, d_model].
    """
    inner = activation(hidden @ input_weights[0])
    for gate in input_weights[1:]:
        inner = inner * (hidden @ gate)
    return inner @ wo


def gather_dispatch(
    hidden: Tensor, expert: Tensor, input_weights: tuple[Tensor, ...], wo: Tensor, activation: Activation
) -> Tensor:
    """Fetch each token's expert and apply it: the static dispatch for few tokens; only experts that are hit are read.

    Args:
        hidden: [batch, tokens, d_model].
        expert: int64 [batch, tokens].
        input_weights: each [experts, d_model, d_ff].
        wo: [experts, d_ff, d_model].
        activation: of the experts.

    Returns:
        [batch, tokens, d_model], not yet scaled by the probabilities.
    """
    chosen = expert.flatten()
    rows = hidden.reshape(-1, 1, hidden.shape[-1])  # [batch * tokens, 1, d_model]
    inputs = tuple(weight.index_select(0, chosen) for weight in input_weights)  # [batch * tokens, d_model, d_ff]
    return feed_forward(rows, inputs, wo.index_select(0, chosen), activation).reshape(hidden.shape)


def bucket_dispatch(
    hidden: Tensor,
    expert: Tensor,
    input_weights: tuple[Tensor, ...],
    wo: Tensor,
    activation: Activation,
    capacity: int | None,
) -> Tensor:
    """Scatter tokens into one bucket per expert and sequence, run all experts as one batched product, gather back.

    The static dispatch for many tokens (GShard, Lepikhin et al. 2020, with indices in place of one-hot products).
    Arguments and result are those of `gather_dispatch`; `capacity` bounds a bucket, None makes it a sequence long.
    Tokens past it get zero.
    """
    batch, tokens, d_model = hidden.shape
    experts = wo.shape[0]
    size = tokens if capacity is None else torch.sym_min(tokens, capacity)  # type: ignore[no-untyped-call]
    spill = experts * size  # tokens past the capacity share one row past the buckets
    rank = rank_in_expert(expert, experts)
    slot = torch.where(rank < size, expert * size + rank, spill)
    index = slot.unsqueeze(-1).expand(-1, -1, d_model)
    buckets = hidden.new_zeros(batch, spill + 1, d_model).scatter(1, index, hidden)
    grouped = buckets[:, :spill].reshape(batch, experts, size, d_model).transpose(0, 1)
    grouped = grouped.reshape(experts, batch * size, d_model)
    output = feed_forward(grouped, input_weights, wo, activation)
    output = output.reshape(experts, batch, size, d_model).transpose(0, 1).reshape(batch, spill, d_model)
    output = torch.cat([output, output.new_zeros(batch, 1, d_model)], dim=1)
    return output.gather(1, index)


def loop_dispatch(
    hidden: Tensor,
    expert: Tensor,
    expert_weights: Callable[[int], tuple[tuple[Tensor, ...], Tensor]],
    activation: Activation,
) -> Tensor:
    """Take the experts that are hit one after the other: the plain definition, for comparison.

    `expert_weights` gives an expert's input weights and `wo`; the rest is as in `gather_dispatch`.
    """
    output = torch.zeros_like(hidden)
    for number in sorted(set(expert.flatten().tolist())):
        rows = expert == number
        inputs, wo = expert_weights(number)
        output[rows] = feed_forward(hidden[rows], inputs, wo, activation)
    return output


def branch_dispatch(hidden: Tensor, expert: Tensor, layer: str) -> Tensor:
    """Mark where the ONNX graph branches on experts; `branches` puts one branch per expert in the node's place.

    Weights are not arguments, so that tracing costs the same for eight experts and for two thousand.

    Args:
        hidden: [batch, tokens, d_model].
        expert: int64 [batch, tokens].
        layer: the module path whose experts are meant.

    Returns:
        [batch, tokens, d_model].
    """
    return torch.onnx.ops.symbolic(
        DISPATCH_OP, (hidden, expert), {"layer": layer}, dtype=hidden.dtype, shape=hidden.shape, version=1
    )


def branch_drop_overflow(routing: Routing, experts: int, capacity: int) -> Tensor:
    """Mark where the ONNX graph does what `drop_overflow` does, if there are tokens enough for any to be dropped."""
    return torch.onnx.ops.symbolic(
        DROP_OP,
        tuple(routing),
        {"experts": experts, "capacity": capacity},
        dtype=torch.float32,
        shape=routing.probability.shape,
        version=1,
    )

"""Mixture-of-Experts layers of a Switch Transformer: top-1 routing, and one expert after the other.

Routing follows Fedus et al., "Switch Transformers" (2021), §2.1, as transformers 5.23.0 computes it: the softmax runs
over all experts, the winner's output is scaled by its probability, and tokens past an expert's capacity, counted along
each sequence, get zero from the layer. An expert's feed-forward network is `activation(x @ wi) @ wo`, or
`activation(x @ wi_0) * (x @ wi_1) @ wo` where it is gated.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Activation = Callable[[Tensor], Tensor]


class ExpertWeights(NamedTuple):
    """Weights of one feed-forward network.

    Attributes:
        inputs: `(wi,)` or `(wi_0, wi_1)`, each [d_model, d_ff].
        wo: [d_ff, d_model].
    """

    inputs: tuple[Tensor, ...]
    wo: Tensor


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


def kept_probability(routing: Routing, capacity: int | None) -> Tensor:
    """The probabilities, with zero for tokens past their expert's capacity: their layer's output is then zero."""
    if capacity is None:
        return routing.probability
    same = routing.expert[:, :, None] == routing.expert[:, None, :]  # [batch, tokens, tokens]
    place = same.tril().sum(dim=-1)  # of a token among those of its expert, from 1
    return torch.where(place <= capacity, routing.probability, 0.0)


def feed_forward(hidden: Tensor, weights: ExpertWeights, activation: Activation) -> Tensor:
    """One expert over [tokens, d_model]."""
    inner = activation(hidden @ weights.inputs[0])
    for gate in weights.inputs[1:]:
        inner = inner * (hidden @ gate)
    return inner @ weights.wo


def dispatch(
    hidden: Tensor, expert: Tensor, weights_of: Callable[[int], ExpertWeights], activation: Activation
) -> Tensor:
    """Take the experts that are hit one after the other: the plain definition.

    Args:
        hidden: [batch, tokens, d_model].
        expert: int64 [batch, tokens].
        weights_of: an expert's weights by its number.
        activation: of the experts.

    Returns:
        [batch, tokens, d_model], not yet scaled by the probabilities.
    """
    output = torch.zeros_like(hidden)
    for number in sorted(set(expert.flatten().tolist())):
        rows = expert == number
        output[rows] = feed_forward(hidden[rows], weights_of(number), activation)
    return output

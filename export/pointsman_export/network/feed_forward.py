"""Feed-forward networks: dense ones, and Mixtures of Experts."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pointsman.bundle import Architecture
from pointsman_export.network import moe
from pointsman_export.network.build import input_names
from pointsman_export.network.layers import Linear, RMSNorm

ExpertReader = Callable[[int], moe.ExpertWeights]


def activation_function(name: str) -> moe.Activation:
    """The activation that an architecture names; `gelu_tanh` is T5 v1.1's `gelu_new`."""
    if name == "gelu_tanh":
        return lambda x: nn.functional.gelu(x, approximate="tanh")
    functions: dict[str, moe.Activation] = {"relu": torch.relu, "gelu": nn.functional.gelu, "silu": nn.functional.silu}
    return functions[name]


class DenseFeedForward(nn.Module):
    """One feed-forward network."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.inputs = input_names(architecture)
        for name in self.inputs:
            self.add_module(name, Linear(architecture.d_model, architecture.d_ff))
        self.wo = Linear(architecture.d_ff, architecture.d_model)
        self.activation = activation_function(architecture.activation)

    def forward(self, normed: Tensor) -> Tensor:
        inputs = tuple(self.get_parameter(f"{name}.weight") for name in self.inputs)
        return moe.feed_forward(normed, moe.ExpertWeights(inputs, self.wo.weight), self.activation)


class Classifier(Linear):
    """A product, with a bias where the checkpoint has one."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture.d_model, architecture.num_experts)
        self.bias: nn.Parameter | None = None
        if architecture.router_bias:
            self.bias = nn.Parameter(torch.empty(architecture.num_experts), requires_grad=False)

    def forward(self, hidden: Tensor) -> Tensor:
        logits = super().forward(hidden)
        return logits if self.bias is None else logits + self.bias


class Router(nn.Module):
    """The classifier of a sparse layer."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.classifier = Classifier(architecture)

    def forward(self, normed: Tensor) -> Tensor:
        logits: Tensor = self.classifier(normed)
        return logits


class SparseFeedForward(nn.Module):
    """A router and its experts.

    Args:
        architecture: sizes.
        capacity: tokens an expert accepts from one sequence; None for no limit.
        experts: an expert's weights by its number, asked for when tokens reach it.
    """

    def __init__(self, architecture: Architecture, capacity: int | None, experts: ExpertReader) -> None:
        super().__init__()
        self.router = Router(architecture)
        self.capacity, self.experts = capacity, experts
        self.activation = activation_function(architecture.activation)

    def route(self, normed: Tensor) -> moe.Routing:
        """Where the router sends tokens."""
        return moe.route(self.router(normed))

    def forward(self, normed: Tensor, expert: Tensor) -> Tensor:
        """Tokens through these experts, int64 [batch, tokens], scaled by the probability of the router's choice."""
        output = moe.dispatch(normed, expert, self.experts, self.activation)
        routing = self.route(normed)._replace(expert=expert)
        return output * moe.kept_probability(routing, self.capacity).unsqueeze(-1)


class FeedForwardLayer(nn.Module):
    """Norm, feed-forward network or experts, residual."""

    def __init__(self, architecture: Architecture, mlp: DenseFeedForward | SparseFeedForward) -> None:
        super().__init__()
        self.mlp = mlp
        self.layer_norm = RMSNorm(architecture.d_model, architecture.layer_norm_epsilon)

    def chosen(self, hidden: Tensor) -> Tensor | None:
        """The expert of each token, int64 [batch, tokens], by the router; None where there are no experts."""
        if isinstance(self.mlp, DenseFeedForward):
            return None
        return self.mlp.route(self.layer_norm(hidden)).expert

    def forward(self, hidden: Tensor, *expert: Tensor) -> Tensor:
        """The residual stream behind the layer, whose tokens go through these experts if it has any."""
        output: Tensor = self.mlp(self.layer_norm(hidden), *expert)
        return hidden + output

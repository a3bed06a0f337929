"""Feed-forward networks: dense ones, and Mixtures of Experts."""

import torch
from torch import Tensor, nn

from pointsman.bundle import Architecture
from pointsman_export.network import moe
from pointsman_export.network.build import Build
from pointsman_export.network.layers import Linear, RMSNorm


def activation_function(name: str) -> moe.Activation:
    """The activation that an architecture names; `gelu_tanh` is T5 v1.1's `gelu_new`."""
    if name == "gelu_tanh":
        return lambda x: nn.functional.gelu(x, approximate="tanh")
    functions: dict[str, moe.Activation] = {"relu": torch.relu, "gelu": nn.functional.gelu, "silu": nn.functional.silu}
    return functions[name]


def input_names(architecture: Architecture) -> tuple[str, ...]:
    """Names of a feed-forward network's input projections."""
    return ("wi_0", "wi_1") if architecture.gated else ("wi",)


def scaled(hidden: Tensor, scale: float) -> Tensor:
    """Multiply by a power of two, where it is not one."""
    return hidden * scale if scale != 1.0 else hidden


def unscaled(hidden: Tensor, scale: float) -> Tensor:
    """Undo `scaled`."""
    return hidden * (1.0 / scale) if scale != 1.0 else hidden


class DenseFeedForward(nn.Module):
    """One feed-forward network."""

    def __init__(self, build: Build) -> None:
        super().__init__()
        architecture, self.precision = build.architecture, build.precision
        dtype = self.precision.compute
        for name in input_names(architecture):
            self.add_module(name, Linear(architecture.d_model, architecture.d_ff, dtype))
        self.wo = Linear(architecture.d_ff, architecture.d_model, dtype)
        self.inputs = input_names(architecture)
        self.activation = activation_function(architecture.activation)

    def forward(self, normed: Tensor) -> Tensor:
        weights = tuple(self.get_parameter(f"{name}.weight") for name in self.inputs)
        activation, scale = self.activation, self.precision.wo_scale
        output = moe.feed_forward(
            normed.to(self.precision.compute), weights, self.wo.weight, lambda x: scaled(activation(x), scale)
        )
        return unscaled(output.to(torch.float32), scale)


class Classifier(Linear):
    """A float32 product, with a bias where the checkpoint has one."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture.d_model, architecture.num_experts, torch.float32)
        self.bias: nn.Parameter | None = None
        if architecture.router_bias:
            self.bias = nn.Parameter(torch.empty(architecture.num_experts), requires_grad=False)

    def forward(self, hidden: Tensor) -> Tensor:
        logits = super().forward(hidden)
        return logits if self.bias is None else logits + self.bias


class Router(nn.Module):
    """The float32 classifier of a sparse layer."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.classifier = Classifier(architecture)

    def forward(self, normed: Tensor) -> Tensor:
        logits: Tensor = self.classifier(normed)
        return logits


class Experts(nn.Module):
    """The stacked weights of a sparse layer's experts."""

    def __init__(self, architecture: Architecture, dtype: torch.dtype) -> None:
        super().__init__()
        experts, d_model, d_ff = architecture.num_experts, architecture.d_model, architecture.d_ff
        for name in input_names(architecture):
            self.register_parameter(
                name, nn.Parameter(torch.empty(experts, d_model, d_ff, dtype=dtype), requires_grad=False)
            )
        self.wo = nn.Parameter(torch.empty(experts, d_ff, d_model, dtype=dtype), requires_grad=False)


class SparseFeedForward(nn.Module):
    """A router and its experts.

    Args:
        build: sizes, form, precision, capacity.
        path: module path, by which the branching dispatch finds its experts.
        few_tokens: whether the graph sees few tokens at a time (the decoder step), for the portable form's choice.
    """

    def __init__(self, build: Build, path: str, *, few_tokens: bool) -> None:
        super().__init__()
        self.build, self.path, self.few_tokens = build, path, few_tokens
        self.drop_overflow = moe.branch_drop_overflow if build.form == "fused" else moe.drop_overflow
        self.chosen: Tensor | None = None  # what a comparison wants to see of the last call
        architecture = build.architecture
        self.router = Router(architecture)
        if build.form == "portable":
            self.experts = Experts(architecture, build.precision.compute)
        self.inputs = input_names(architecture)
        self.activation = activation_function(architecture.activation)

    def forward(self, normed: Tensor) -> Tensor:
        routing = moe.route(self.router(normed))
        output = self.dispatch(normed.to(self.build.precision.compute), routing.expert).to(torch.float32)
        return unscaled(output * self.weight(routing).unsqueeze(-1), self.build.precision.wo_scale)

    def weight(self, routing: moe.Routing) -> Tensor:
        """What the experts' outputs are scaled by, float32 [batch, tokens]."""
        experts, capacity = self.build.architecture.num_experts, self.build.capacity
        if capacity is None:
            return routing.probability
        return self.drop_overflow(routing, experts, capacity)

    def dispatch(self, hidden: Tensor, expert: Tensor) -> Tensor:
        """[batch, tokens, d_model] through the experts, by the form's dispatch."""
        if self.build.form == "fused":
            return moe.branch_dispatch(hidden, expert, self.path)
        activation, scale = self.activation, self.build.precision.wo_scale
        weights = tuple(self.experts.get_parameter(name) for name in self.inputs)
        arguments = (hidden, expert, weights, self.experts.wo, lambda x: scaled(activation(x), scale))
        if self.few_tokens:
            return moe.gather_dispatch(*arguments)
        return moe.bucket_dispatch(*arguments, self.build.capacity)


class FeedForwardLayer(nn.Module):
    """Norm, feed-forward network or experts, residual."""

    def __init__(self, build: Build, path: str, *, sparse: bool, few_tokens: bool) -> None:
        super().__init__()
        self.mlp = SparseFeedForward(build, f"{path}.mlp", few_tokens=few_tokens) if sparse else DenseFeedForward(build)
        self.layer_norm = RMSNorm(build.architecture.d_model, build.architecture.layer_norm_epsilon)

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.mlp(self.layer_norm(hidden))
        return hidden + output

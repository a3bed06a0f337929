"""The layers that all others are made of."""

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """A product with a weight stored [in, out]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs), requires_grad=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden @ self.weight


class RMSNorm(nn.Module):
    """Root-mean-square norm (Zhang and Sennrich 2019): no mean, no bias."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size), requires_grad=False)
        self.epsilon = epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        return nn.functional.rms_norm(hidden, self.weight.shape, self.weight, self.epsilon)

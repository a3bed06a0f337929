"""The layers that all others are made of."""

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """A product with a weight stored [in, out], in the compute dtype."""

    def __init__(self, inputs: int, outputs: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs, dtype=dtype), requires_grad=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden.to(self.weight.dtype) @ self.weight


class Embedding(nn.Module):
    """Token vectors, [vocab, d_model] as in the checkpoint."""

    def __init__(self, vocab: int, size: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab, size, dtype=dtype), requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.embedding(ids, self.weight).to(torch.float32)


class RMSNorm(nn.Module):
    """Root-mean-square norm in float32 (Zhang and Sennrich 2019): no mean, no bias."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size), requires_grad=False)
        self.epsilon = epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        return nn.functional.rms_norm(hidden, self.weight.shape, self.weight, self.epsilon)

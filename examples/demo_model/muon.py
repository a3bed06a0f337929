"""The optimizer of matrices."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def orthogonalise(matrices: Tensor, steps: int = 4) -> Tensor:
    """Nearest semi-orthogonal matrices [n, rows, cols] by Newton-Schulz iteration in bfloat16 (Muon, 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    result: Tensor = (x.mT if tall else x).float()
    return result


class Muon:
    """Momentum orthogonalised by Newton-Schulz (Jordan et al. 2024) for banks of matrices [..., rows, cols]."""

    def __init__(self, banks: list[nn.Parameter], momentum: float = 0.95, decay: float = 0.1) -> None:
        self.banks, self.momentum, self.decay = banks, momentum, decay
        self.buffers = [torch.zeros_like(bank) for bank in banks]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Update all banks; banks of equal matrix shape go through one batched iteration."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, bank in enumerate(self.banks):
            groups.setdefault(tuple(bank.shape[-2:]), []).append(index)
        for shape, members in groups.items():
            stacked = []
            for index in members:
                grad = self.banks[index].grad
                assert grad is not None
                self.buffers[index].lerp_(grad, 1 - self.momentum)
                stacked.append(grad.lerp(self.buffers[index], self.momentum).reshape(-1, *shape))
            updates = torch.split(orthogonalise(torch.cat(stacked)), [len(s) for s in stacked])
            for index, update in zip(members, updates, strict=True):
                bank = self.banks[index]
                bank.mul_(1 - rate * self.decay).add_(update.reshape(bank.shape), alpha=-rate)

"""The recipe, and one training step of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from corpus import Shape, corrupt
from fast_switch import FastSwitch, Sizes, bucket_table
from muon import Muon
from windows import DENSITY, FIRST_SENTINEL, MEAN_SPAN, WINDOW, Data, held_out_batches, span_mask


@dataclass
class Options:
    """Recipe; rates are peaks."""

    minutes: float
    seed: int = 1
    muon_rate: float = 0.02
    embedding_rate: float = 5e-3
    other_rate: float = 3e-3
    warmup: int = 100
    hold: float = 0.1  # share of the time at the peak rate before the linear decay to 0
    short_until: float = 0.25  # share of the time with small batches of short windows
    dense_until: float = 0.6  # share of the time with more hidden text, which gives more targets a second
    dense: float = 0.2
    balance: float = 0.01
    z_loss: float = 1e-3


@dataclass
class Progress:
    """What has been done so far, and the running means since the last report."""

    steps: int = 0
    tokens: int = 0
    targets: int = 0
    minutes: float = 0.0
    losses: list[float] = field(default_factory=list)
    balances: list[float] = field(default_factory=list)


def rate_at(options: Options, done: float, step: int) -> float:
    """Share of the peak rate: linear warm-up by steps, hold, then linear decay to 0 by wall clock."""
    falling = min(1.0, (1 - done) / (1 - options.hold))
    return max(0.0, falling) * min(1.0, (step + 1) / options.warmup)


def pick_shape(options: Options, done: float, rng: np.random.Generator) -> tuple[int, Shape]:
    """Rows and shape of the next batch: short windows first, then mostly windows of 128 tokens."""
    density = options.dense if done < options.dense_until else DENSITY
    if done < options.short_until:
        return 64, Shape.of(64, density, MEAN_SPAN)
    window = int(rng.choice([128, 64, 32], p=[0.6, 0.25, 0.15]))
    return 8192 // window, Shape.of(window, density, MEAN_SPAN)


class Trainer:
    """Owns the fast model, its optimizers and the clock."""

    def __init__(self, data: Data, options: Options) -> None:
        self.data, self.options, self.progress = data, options, Progress()
        self.model = FastSwitch(Sizes(), options.seed)
        named = dict(self.model.named_parameters())
        self.muon = Muon([p for n, p in named.items() if n.endswith("bank")])
        other = [p for n, p in named.items() if not n.endswith("bank") and n != "shared"]
        self.adam = torch.optim.AdamW(
            [
                {"params": [self.model.shared], "peak": options.embedding_rate},
                {"params": other, "peak": options.other_rate},
            ],
            betas=(0.9, 0.98),
            weight_decay=0.0,
            fused=True,
        )
        self.rng = np.random.default_rng(options.seed)
        self.first_step = 0
        self.tables: dict[Shape, tuple[Tensor, Tensor]] = {}

    def table(self, shape: Shape) -> tuple[Tensor, Tensor]:
        """Bucket tables of the encoder [S, S] and of the decoder [T, T]."""
        if shape not in self.tables:
            sizes = self.model.sizes
            self.tables[shape] = (
                bucket_table(sizes, shape.inputs, shape.inputs, bidirectional=True),
                bucket_table(sizes, shape.targets, shape.targets, bidirectional=False),
            )
        return self.tables[shape]

    def step(self, done: float) -> None:
        """One batch and one update."""
        rows, shape = pick_shape(self.options, done, self.rng)
        text = self.data.windows(rows, shape.window, self.rng)
        inputs, targets = (torch.from_numpy(a) for a in corrupt(text, shape, FIRST_SENTINEL, self.rng))
        loss, balance, z_loss = self.model(inputs, targets, *self.table(shape))
        (loss + self.options.balance * balance + self.options.z_loss * z_loss).backward()
        share = rate_at(self.options, done, self.progress.steps - self.first_step)
        self.muon.step(self.options.muon_rate * share)
        for group in self.adam.param_groups:
            group["lr"] = group["peak"] * share
        self.adam.step()
        self.model.zero_grad(set_to_none=True)
        self.progress.steps += 1
        self.progress.tokens += rows * shape.window
        self.progress.targets += rows * shape.noise
        self.progress.losses.append(loss.item())
        self.progress.balances.append(balance.item() / 4)

    @torch.no_grad()
    def held_out(self, windows: int = 256) -> float:
        """Quick held-out span loss with the fast model, for the log only."""
        shape, total, count = Shape.of(WINDOW, DENSITY, MEAN_SPAN), 0.0, 0
        for batch in held_out_batches(self.data.held, windows, 64):
            inputs, targets = (torch.from_numpy(a) for a in batch)
            losses = self.model.token_losses(inputs, targets, *self.table(shape))
            mask = span_mask(targets)
            total += float(losses[mask].sum())
            count += int(mask.sum())
        return total / count


def count_parameters(model: nn.Module) -> int:
    """Number of trained values, shared ones once."""
    return sum(p.numel() for p in model.parameters())

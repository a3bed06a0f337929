"""The figures of a folder, by the unmodified `transformers` model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as fn
from torch import Tensor, nn

from corpus import EOS, PAD, UNK, Tokens
from trainer import count_parameters
from windows import DENSITY, MEAN_SPAN, PIECES, WINDOW, Data, held_out_batches, span_mask


def unigram_losses(train: Tokens) -> Tensor:
    """Negative log probability of each piece, counted on the training text with one added to each count."""
    counts = np.bincount(train, minlength=PIECES).astype(np.float64) + 1
    counts[[PAD, EOS]] = 1
    return torch.from_numpy(-np.log(counts / counts.sum()))


def quick_baseline(data: Data, windows: int = 256) -> float:
    """Unigram loss on the span tokens of the quick held-out windows."""
    losses = unigram_losses(data.train)
    found = [torch.from_numpy(targets) for _, targets in held_out_batches(data.held, windows, 64)]
    targets = torch.cat(found)
    return float(losses[targets[span_mask(targets)]].mean())


@torch.no_grad()
def evaluate(data: Data, folder: Path, windows: int = 1024) -> dict[str, Any]:
    """Held-out span loss of the folder by the unmodified transformers model, baseline and expert use."""
    from transformers import SwitchTransformersForConditionalGeneration

    # float32 arithmetic on the bfloat16 weights: what the figures say is then the same on every machine.
    model = SwitchTransformersForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    model.train(mode=False)
    use: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if name.endswith("mlp.router"):
            module.register_forward_hook(_count_experts(use, name.removesuffix(".mlp.router")))
    unigram = unigram_losses(data.train)
    loss = base = 0.0
    count = unknown = 0
    for batch in held_out_batches(data.held, windows, 32):
        inputs, targets = (torch.from_numpy(a) for a in batch)
        begun = fn.pad(targets, (1, 0))[:, :-1]
        logits = model(input_ids=inputs, decoder_input_ids=begun).logits.float()
        mask = span_mask(targets)
        loss += float(fn.cross_entropy(logits[mask], targets[mask], reduction="sum"))
        base += float(unigram[targets[mask]].sum())
        count += int(mask.sum())
        unknown += int((targets[mask] == UNK).sum())
    return {
        "held_out_windows": windows,
        "window_tokens": WINDOW,
        "noise_density": DENSITY,
        "mean_span": MEAN_SPAN,
        "span_tokens": count,
        "unknown_span_tokens": unknown,
        "span_loss": round(loss / count, 4),
        "unigram_loss": round(base / count, 4),
        "below_unigram": round((base - loss) / count, 4),
        "parameters": count_parameters(model),
        "training_stream_tokens": len(data.train),
        "held_out_stream_tokens": len(data.held),
        "expert_use": {name: [round(float(v), 3) for v in counts / counts.sum()] for name, counts in use.items()},
    }


def _count_experts(use: dict[str, Tensor], name: str) -> Callable[..., None]:
    """Forward hook on a router: its first output is one-hot [batch, length, experts]."""

    def hook(_module: nn.Module, _args: object, output: tuple[Tensor, ...]) -> None:
        chosen = output[0].reshape(-1, output[0].shape[-1]).double().sum(0)
        use[name] = use.get(name, torch.zeros_like(chosen)) + chosen

    return hook


def write_figures(folder: Path, figures: dict[str, Any]) -> None:
    """Add the evaluation to the folder's training.json and print it."""
    target = folder / "training.json"
    known = json.loads(target.read_text()) if target.exists() else {}
    known["evaluation"] = figures
    target.write_text(json.dumps(known, indent=2) + "\n")
    print(json.dumps(figures, indent=2))

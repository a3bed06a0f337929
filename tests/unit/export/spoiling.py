"""Ways to spoil a checkpoint, and to read what the command says of it."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from said import lines

WEIGHTS, INDEX, SHARD = "model.safetensors", "model.safetensors.index.json", "model-00002-of-00003.safetensors"
WI = "decoder.block.1.layer.2.mlp.experts.expert_3.wi.weight"


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def change(**tensors: Callable[[torch.Tensor], torch.Tensor] | None):
    """Replace or remove tensors of the single weight file."""

    def break_it(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        for name, new in tensors.items():
            state.pop(name) if new is None else state.update({name: new(state[name]).contiguous()})
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})

    return break_it


def without_expert(folder: Path) -> None:
    prefix = WI.removesuffix("wi.weight")
    change(**{f"{prefix}{name}.weight": None for name in ("wi", "wo")})(folder)


def truncate(name: str):
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size * 9 // 10)


def in_config(**values):
    def break_it(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))

    return break_it


def added_tokens(tokens: dict[str, int]):
    def add_them(folder: Path) -> None:
        (folder / "added_tokens.json").write_text(json.dumps(tokens))

    return add_them


def with_nan(tensor: torch.Tensor) -> torch.Tensor:
    spoilt = tensor.clone()
    spoilt[3, 4] = torch.nan
    return spoilt


def sentences(capsys) -> list[str]:
    """Lines on stderr, but for notes and progress."""
    return [line for line in lines(capsys) if not line.startswith("note: ")]

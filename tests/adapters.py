"""Seeded PEFT adapters of test checkpoints, as peft writes and merges them."""

import warnings
from pathlib import Path
from typing import Any

import torch

from checkpoints import reference


def write_adapter(folder: Path, base: Path, **settings: Any) -> Path:
    """Train nothing: draw an adapter's weights, and let peft write it into ``folder``."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(len(str(settings)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on ties, which tests have on purpose
        config = LoraConfig(**{"task_type": "SEQ_2_SEQ_LM", "r": 4, "init_lora_weights": False} | settings)
        model = get_peft_model(reference(base), config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn(parameter.shape)
        model.save_pretrained(folder)
    return folder


def loaded_by_peft(folder: Path, base: Path) -> Any:
    """The base with the adapter beside its weights."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(reference(base), folder)


def merged_by_peft(folder: Path, base: Path) -> Any:
    """The base with the adapter merged into it, as transformers' model."""
    model = loaded_by_peft(folder, base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.merge_and_unload().eval()

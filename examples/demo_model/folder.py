"""The Hugging Face folder: written for users, and read to go on training."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from corpus import EOS, PAD, SENTINELS
from fast_switch import Sizes, export_tensors, import_tensors
from trainer import Trainer


def configuration(sizes: Sizes) -> dict[str, Any]:
    """config.json, with the keys of the published Switch configurations."""
    return {
        "architectures": ["SwitchTransformersForConditionalGeneration"],
        "model_type": "switch_transformers",
        "vocab_size": sizes.vocab,
        "d_model": sizes.d_model,
        "d_kv": sizes.d_kv,
        "d_ff": sizes.d_ff,
        "num_heads": sizes.heads,
        "num_layers": sizes.layers,
        "num_decoder_layers": sizes.layers,
        "num_sparse_encoder_layers": sizes.layers // 2,
        "num_sparse_decoder_layers": sizes.layers // 2,
        "encoder_sparse_step": 2,
        "decoder_sparse_step": 2,
        "num_experts": sizes.experts,
        "expert_capacity": 64,
        "router_bias": False,
        "router_dtype": "float32",
        "router_jitter_noise": 0.01,
        "router_ignore_padding_tokens": False,
        "router_aux_loss_coef": 0.001,
        "router_z_loss_coef": 0.001,
        "add_router_probs": False,
        "relative_attention_num_buckets": sizes.buckets,
        "relative_attention_max_distance": sizes.max_distance,
        "dropout_rate": 0.1,
        "layer_norm_epsilon": sizes.epsilon,
        "initializer_factor": 1.0,
        "dense_act_fn": "relu",
        "feed_forward_proj": "relu",
        "is_gated_act": False,
        "is_encoder_decoder": True,
        "tie_word_embeddings": True,
        "use_cache": True,
        "pad_token_id": PAD,
        "eos_token_id": EOS,
        "decoder_start_token_id": PAD,
        "dtype": "bfloat16",
    }


def tokenizer_files() -> dict[str, dict[str, Any]]:
    """tokenizer_config.json, special_tokens_map.json and generation_config.json."""
    sentinels = [f"<extra_id_{n}>" for n in range(SENTINELS)]
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return {
        "tokenizer_config.json": {
            "tokenizer_class": "T5Tokenizer",
            "model_max_length": 512,
            "extra_ids": SENTINELS,
            "additional_special_tokens": sentinels,
            **special,
        },
        "special_tokens_map.json": {"additional_special_tokens": sentinels, **special},
        "generation_config.json": {
            "decoder_start_token_id": PAD,
            "eos_token_id": EOS,
            "pad_token_id": PAD,
        },
    }


def export(trainer: Trainer, vocabulary: Path, out: Path) -> None:
    """Write the Hugging Face folder aside, then move file by file, so that readers never see half a file."""
    from safetensors.torch import save_file

    fresh = out / f".fresh-{os.getpid()}"
    fresh.mkdir(parents=True, exist_ok=True)
    save_file(export_tensors(trainer.model), fresh / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(vocabulary, fresh / "spiece.model")
    files = {"config.json": configuration(trainer.model.sizes), **tokenizer_files()}
    p = trainer.progress
    figures = {"steps": p.steps, "raw_tokens": p.tokens, "span_tokens": p.targets, "wall_minutes": round(p.minutes, 1)}
    files["training.json"] = {"training": figures}
    for name, content in files.items():
        (fresh / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    for path in sorted(fresh.iterdir()):
        path.chmod(0o644)
        path.replace(out / path.name)
    fresh.rmdir()
    print(f"  exported to {out.name} after {p.minutes:.1f} minutes", flush=True)


def resume(trainer: Trainer, folder: Path, *, decoder_only: bool) -> None:
    """Take weights and counts from an exported folder; momentum starts anew, so the warm-up is repeated."""
    from safetensors.torch import load_file

    import_tensors(trainer.model, load_file(folder / "model.safetensors"), decoder_only=decoder_only)
    figures = json.loads((folder / "training.json").read_text())["training"]
    p = trainer.progress
    p.steps, p.tokens, p.targets = figures["steps"], figures["raw_tokens"], figures["span_tokens"]
    p.minutes = figures["wall_minutes"]
    trainer.first_step = p.steps
    trainer.rng = np.random.default_rng([trainer.options.seed, p.steps])

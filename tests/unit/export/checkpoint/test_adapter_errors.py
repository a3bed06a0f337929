"""Adapters that cannot be merged, bases that are not there, and what trainers leave beside weights."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from checkpoints import CHECKPOINTS, weights, write_checkpoint, write_tensors
from pointsman.errors import CheckpointError
from pointsman_export.checkpoint import Checkpoint, stored
from pointsman_export.checkpoint.layout import PREFERENCE

Q = "encoder.block.0.layer.0.SelfAttention.q"
PEFT = "base_model.model."
SETTINGS = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "", "bias": "none"}
ADVICE = "merge it with peft's merge_and_unload, save the model, and export that"


def pair(module: str = Q, rows: int = 32, columns: int = 32, rank: int = 2) -> dict[str, torch.Tensor]:
    return {
        f"{PEFT}{module}.lora_A.weight": torch.ones(rank, columns),
        f"{PEFT}{module}.lora_B.weight": torch.ones(rows, rank),
    }


def write(folder: Path, tensors: dict[str, torch.Tensor] | None = None, **settings: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(SETTINGS | settings))
    save_file(pair() if tensors is None else tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture
def base(tmp_path) -> Path:
    return write_checkpoint(tmp_path / "base", CHECKPOINTS["tied"])


def refusal(*arguments: object, **options: object) -> str:
    with pytest.raises(CheckpointError) as raised:
        Checkpoint.open(*arguments, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


ASKED = {
    "another method": ({"peft_type": "IA3"}, "peft_type IA3"),
    "a prompt": ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 8}, "peft_type PROMPT_TUNING"),
    "no method": ({"peft_type": None}, "peft_type None"),
    "biases of B": ({"lora_bias": True}, "lora_bias"),
    "another variant": ({"use_qalora": True, "qalora_group_size": 16}, "use_qalora"),
    "parameters": ({"target_parameters": ["mlp.experts.wi"]}, "target_parameters"),
    "copied layers": ({"layer_replication": [[0, 2]]}, "layer_replication"),
    "an init that changes the base": ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights pissa_niter_4"),
    "what is not known": ({"use_novelty": 3, "other_novelty": True}, "other_novelty, use_novelty"),
}


@pytest.mark.parametrize(("settings", "named"), ASKED.values(), ids=ASKED.keys())
def test_what_is_not_merged_is_named(tmp_path, base, settings, named):
    folder = write(tmp_path / "adapter", **settings)
    assert refusal(folder, base=base) == (
        f"{folder}/adapter_config.json asks for what Pointsman does not merge ({named}); {ADVICE}"
    )


TENSORS = {
    "another rank": (
        pair(rank=3),
        r"lora_A and lora_B of \S+\.q are \[3, 32\] and \[32, 3\], and .* rank 2; fetch both",
    ),
    "no B": ({f"{PEFT}{Q}.lora_A.weight": torch.ones(2, 32)}, rf"^the adapter lacks lora_B of {re.escape(Q)}; fetch"),
    "lengths alone": ({f"{PEFT}{Q}.lora_magnitude_vector": torch.ones(32)}, r"^the adapter lacks lora_A of "),
    "another base": (
        pair("encoder.block.9.layer.0.SelfAttention.q"),
        r"changes tensors that its base does not have: encoder\.block\.9\.layer\.0\.SelfAttention\.q\.weight; give the",
    ),
    "a wider base": (
        pair(columns=64),
        r"changes \S+\.q\.weight as a tensor of another shape than its \[32, 32\]; give",
    ),
    "integers": (
        {name: tensor.to(torch.int8) for name, tensor in pair().items()},
        r"safetensors holds dtypes that are not supported: .*lora_A\.weight \(I8\), .*; save it as float32$",
    ),
    "two adapters": (
        {name.replace(".weight", f".{kind}.weight"): tensor for name, tensor in pair().items() for kind in ("a", "b")},
        r"adapter_model\.safetensors holds several adapters \(a, b\); save one alone$",
    ),
    "DoRA of an embedding": (
        {
            f"{PEFT}shared.lora_embedding_A": torch.ones(2, 128),
            f"{PEFT}shared.lora_embedding_B": torch.ones(32, 2),
            f"{PEFT}shared.lora_magnitude_vector": torch.ones(32),
        },
        r"asks for DoRA of shared, an embedding, which Pointsman does not merge; merge it with",
    ),
    "rows without numbers": (
        {f"{PEFT}shared.token_adapter.trainable_tokens_delta": torch.ones(2, 32)},
        r"^the adapter has 2 trained rows of shared, and adapter_config\.json names 0; fetch both files again$",
    ),
}


@pytest.mark.parametrize(("tensors", "sentence"), TENSORS.values(), ids=TENSORS.keys())
def test_tensors_that_cannot_be_merged(tmp_path, base, tensors, sentence):
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    assert re.search(sentence, refusal(write(tmp_path / "adapter", copies), base=base))


@pytest.mark.parametrize("settings", [{"r": None}, {"r": "two"}, {"lora_alpha": [1]}, {"rank_pattern": [3]}])
def test_a_configuration_without_numbers(tmp_path, base, settings):
    folder = write(tmp_path / "adapter", **settings)
    sentence = rf"^{folder}/adapter_config\.json has no usable rank and alpha \(.*\); fetch the file again$"
    assert re.search(sentence, refusal(folder, base=base))


def test_an_adapter_alone_says_where_its_base_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = write(tmp_path / "adapter", base_model_name_or_path="/home/of/somebody/base")
    assert refusal(folder) == (
        f"{folder} is an adapter, and its base /home/of/somebody/base cannot be opened: there is no folder "
        "/home/of/somebody/base; give a checkpoint's folder or a model's id on the hub; or say where it is with `base`"
    )
    write(folder)
    assert refusal(folder) == f"{folder}/adapter_config.json names no base; give its folder or hub id with `base`"


def test_an_adapter_names_its_base(tmp_path, base):
    folder = write(tmp_path / "adapter", base_model_name_or_path=str(base))
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.folders == (folder, base)
        expected = weights(CHECKPOINTS["tied"])[f"{Q}.weight"].numpy() + 2 * 2  # alpha / r times a rank of ones
        np.testing.assert_allclose(checkpoint.read(f"{Q}.weight"), expected, rtol=1e-6)
        assert checkpoint.read("encoder.final_layer_norm.weight").dtype == np.float32


def test_weights_and_configuration_belong_together(tmp_path, base):
    folder = write(tmp_path / "adapter")
    (folder / "adapter_model.safetensors").unlink()
    assert refusal(folder, base=base) == (
        f"{folder} has adapter_config.json and no adapter_model.safetensors or adapter_model.bin; fetch it"
    )
    write(folder)
    (folder / "adapter_config.json").unlink()
    (folder / "config.json").write_text("{}")
    assert refusal(folder) == (
        f"{folder} has no weights that can be read; adapter_model.safetensors is of an adapter without its "
        "adapter_config.json; put that beside it"
    )


def test_a_base_of_what_is_no_adapter(base):
    assert refusal(base, base=base) == f"{base} has no adapter_config.json; `base` is for adapters"


def test_an_unmerged_adapter_among_the_weights(tmp_path, base):
    tensors = {name.replace("q.weight", "q.base_layer.weight"): t for name, t in weights(CHECKPOINTS["tied"]).items()}
    write_tensors(base, tensors | {name.removeprefix(PEFT): t for name, t in pair().items()}, "safetensors")
    sentence = (
        r"^\S+/base holds an adapter that is not merged \(\S+q\.base_layer\.weight and \d+ more\) and no "
        r"adapter_config\.json, which says how it is; put that beside the weights, or merge it with peft's "
        r"merge_and_unload and save the model$"
    )
    assert re.search(sentence, refusal(base))
    (base / "adapter_config.json").write_text(json.dumps(SETTINGS))
    with Checkpoint.open(base) as checkpoint:
        assert checkpoint.tensors.keys() == weights(CHECKPOINTS["tied"]).keys()


def test_merged_tensors_are_cut_like_others(tmp_path, base, monkeypatch):
    """As two of them are compared: a few rows at a time."""
    tensors = pair("shared", rows=128) | {f"{PEFT}shared.token_adapter.trainable_tokens_delta": torch.ones(2, 32)}
    rank = {f"{PEFT}shared.lora_embedding_A": torch.rand(2, 128), f"{PEFT}shared.lora_embedding_B": torch.rand(32, 2)}
    tensors = {**{name: t for name, t in tensors.items() if "lora_" not in name}, **rank}
    folder = write(tmp_path / "adapter", tensors, trainable_token_indices=[100, 3])
    monkeypatch.setattr(stored, "_BLOCK_ELEMENTS", 7 * 32)
    with Checkpoint.open(folder, base=base) as checkpoint:
        merged = checkpoint._stored["shared.weight"]
        blocks = [block.read(checkpoint._files) for block in merged.row_blocks()]
        assert len(blocks) == 19
        np.testing.assert_array_equal(np.concatenate(blocks), checkpoint.read("shared.weight"))
        assert (checkpoint.read("shared.weight")[[3, 100]] == 1).all()
        assert checkpoint.same_values("shared.weight", "lm_head.weight")


# What trainers leave


def test_a_trainer_s_state_is_passed_over(tmp_path):
    folder = write_checkpoint(tmp_path / "checkpoint-500", CHECKPOINTS["tied"])
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "optimizer.bin"):
        torch.save({"shared.weight": torch.zeros(3)}, folder / name)
    for name in ("trainer_state.json", "latest"):
        (folder / name).write_text("{}")
    (folder / "global_step500").mkdir()
    torch.save({"module": {}}, folder / "global_step500" / "mp_rank_00_model_states.pt")
    expected = weights(CHECKPOINTS["tied"])
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.tensors.keys() == expected.keys()
        assert checkpoint.read("shared.weight").tobytes() == expected["shared.weight"].numpy().tobytes()


LEFT = {
    "DeepSpeed's shards": (
        ("global_step500", "zero_to_fp32.py"),
        "global_step500 is of DeepSpeed's shards; make weights of them with the zero_to_fp32.py beside them",
    ),
    "FSDP's shards": (
        ("pytorch_model_fsdp_0",),
        "pytorch_model_fsdp_0 is of FSDP's shards; make weights of them with `accelerate merge-weights`",
    ),
    "checkpoints": (
        ("checkpoint-1000", "checkpoint-500"),
        "checkpoint-1000 is of a trainer's checkpoints; give the folder of one",
    ),
}


@pytest.mark.parametrize(("present", "sentence"), LEFT.values(), ids=LEFT.keys())
def test_a_folder_that_only_a_trainer_can_use(tmp_path, present, sentence):
    for name in present:
        (tmp_path / name).mkdir()
    (tmp_path / "config.json").write_text("{}")
    assert refusal(tmp_path) == f"{tmp_path} has no weights that can be read; {sentence}"


def test_a_folder_that_nobody_can_use(tmp_path):
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "config.json").write_text("{}")
    assert refusal(tmp_path) == f"{tmp_path} has no weights; it needs one of {', '.join(PREFERENCE)}"


@pytest.mark.parametrize("pattern", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_that_is_none(base, tmp_path, pattern):
    adapter = write(tmp_path / "adapter", **{pattern: {"(": 3}})
    assert "has no usable rank and alpha" in refusal(adapter, base=base)


def test_a_base_that_is_an_adapter(base, tmp_path):
    adapter, other = write(tmp_path / "adapter"), write(tmp_path / "other")
    assert refusal(adapter, base=other).endswith(
        "is an adapter itself; give the model that it was trained on with `base`"
    )

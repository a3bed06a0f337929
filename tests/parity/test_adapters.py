"""Adapters merged while they are read, against the merge of peft 0.21.2: every tensor, and generated tokens."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from adapters import loaded_by_peft, merged_by_peft, write_adapter
from checkpoints import EMBEDDING_NAMES
from parity.decoding_reference import Inputs, theirs
from pointsman.decoding import DecodingOptions
from pointsman.model import SwitchModel
from pointsman_export.architecture import derive_from
from pointsman_export.bundle import export_bundle
from pointsman_export.checkpoint import Checkpoint
from tolerances import MERGED

SHARED, ENCODER, DECODER, HEAD = EMBEDDING_NAMES
SETTINGS = {
    "attention": {"target_modules": ["q", "v"]},
    "experts": {"target_modules": ["wi", "wo"]},
    "head": {"target_modules": ["lm_head"]},
    "three kinds": {"target_modules": ["q", "wi", "wo", "lm_head"]},
    "every product": {"target_modules": "all-linear", "lora_alpha": 3},
    "routers": {"target_modules": ["classifier"]},
    "rank-stabilized": {"target_modules": ["k", "o"], "use_rslora": True, "lora_alpha": 16},
    "patterns": {
        "target_modules": ["q", "wi"],
        "rank_pattern": {"wi": 2, "^decoder.*q": 3},
        "alpha_pattern": {"encoder.block.0.layer.0.SelfAttention.q": 32},
    },
    # peft takes it back for layers that store [out, in], as all of Switch's do.
    "fan_in_fan_out": {"target_modules": ["q", "wi"], "fan_in_fan_out": True},
    "the shared embedding": {"target_modules": ["q", "shared"]},
    "the stacks' embeddings": {"target_modules": ["embed_tokens"]},
    "all embeddings": {"target_modules": ["embed_tokens", "shared", "lm_head"]},
    "position biases": {"target_modules": ["relative_attention_bias"]},
    "DoRA": {"target_modules": ["q", "wi", "wo"], "use_dora": True},
    "norms saved whole": {"target_modules": ["q"], "modules_to_save": ["layer_norm", "final_layer_norm"]},
    "the head saved whole": {"target_modules": ["q"], "modules_to_save": ["lm_head"]},
    "the shared embedding saved whole": {"target_modules": ["q"], "modules_to_save": ["shared"]},
    "the stacks' embeddings saved whole": {"target_modules": ["q"], "modules_to_save": ["embed_tokens"]},
    "head and embeddings saved whole": {"target_modules": ["q"], "modules_to_save": ["lm_head", "embed_tokens"]},
    "some tokens": {"target_modules": ["q"], "trainable_token_indices": [7, 3, 126]},
    "some tokens of the head": {"target_modules": ["q"], "trainable_token_indices": {"lm_head": [5]}},
    "tied on purpose": {"target_modules": ["q", "shared"], "ensure_weight_tying": True},
}
BIASES = {"target_modules": ["classifier"], "bias": "all"}


def check_merged(checkpoint: Checkpoint, expected) -> None:
    """Every tensor that transformers' model reads, and the head's place, are those of peft's merge."""
    found = derive_from(checkpoint)
    assert found.unused == ()
    config = checkpoint.config
    assert (config.get("tie_word_embeddings") is not False) is expected.config.tie_word_embeddings
    state = expected.state_dict()
    read = {name for name in found.names if name not in EMBEDDING_NAMES}
    for name in read:
        MERGED.check(checkpoint.read(found.names[name]), state[name].numpy(), name)
    own = found.architecture.separate_embeddings
    for name in (ENCODER, DECODER):
        MERGED.check(checkpoint.read(found.names[name if own else SHARED]), state[name].numpy(), name)
    head = found.names[DECODER if own else SHARED] if found.architecture.tied_head else found.names[HEAD]
    MERGED.check(checkpoint.read(head), state[HEAD].numpy(), HEAD)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("base", ["tied", "untied"])
def test_every_tensor_is_what_peft_makes_of_it(exports, tmp_path, base, settings):
    folder = write_adapter(tmp_path / "adapter", exports.checkpoint(base), **settings)
    with Checkpoint.open(folder) as checkpoint:
        check_merged(checkpoint, merged_by_peft(folder, exports.checkpoint(base)))


def test_biases(exports, tmp_path):
    base = exports.checkpoint("router-bias")
    folder = write_adapter(tmp_path / "adapter", base, **BIASES)
    with Checkpoint.open(folder) as checkpoint:
        check_merged(checkpoint, merged_by_peft(folder, base))


def test_a_base_in_lower_precision_is_merged_in_float32(exports, tmp_path):
    base = exports.checkpoint("bfloat16")
    folder = write_adapter(tmp_path / "adapter", base, **SETTINGS["three kinds"])
    with Checkpoint.open(folder) as checkpoint:
        check_merged(checkpoint, merged_by_peft(folder, base))


@pytest.mark.parametrize("settings", ["three kinds", "the head saved whole", "some tokens", "DoRA"])
def test_the_state_of_a_model_with_an_unmerged_adapter(exports, tmp_path, settings):
    """As `torch.save(model.state_dict())` leaves it, and a trainer that knows nothing of adapters."""
    base = exports.checkpoint("tied")
    folder = write_adapter(tmp_path / "adapter", base, **SETTINGS[settings])
    whole = tmp_path / "whole"
    whole.mkdir()
    torch.save(loaded_by_peft(folder, base).state_dict(), whole / "pytorch_model.bin")
    for name, source in (("config.json", base), ("adapter_config.json", folder)):
        shutil.copy(source / name, whole / name)
    with Checkpoint.open(whole) as checkpoint:
        check_merged(checkpoint, merged_by_peft(folder, base))


def test_an_adapter_beside_its_base(exports, tmp_path):
    """What its configuration names is then not asked."""
    base = shutil.copytree(exports.checkpoint("tied"), tmp_path / "both")
    write_adapter(base, exports.checkpoint("tied"), **SETTINGS["three kinds"])
    rename_base(base, "/home/of/somebody/base")
    with Checkpoint.open(base) as checkpoint:
        assert checkpoint.folders == (base,)
        check_merged(checkpoint, merged_by_peft(base, exports.checkpoint("tied")))


def rename_base(adapter: Path, name: str) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": name}))


@pytest.mark.parametrize("base", ["tied", "untied"])
def test_tokens_are_those_of_transformers_and_peft(exports, tmp_path, base):
    """Attention, experts and head, on 20 inputs, greedily and with beams."""
    folder = write_adapter(tmp_path / "adapter", exports.checkpoint(base), **SETTINGS["three kinds"])
    rename_base(folder, "elsewhere/entirely")
    manifest = export_bundle(folder, tmp_path / "bundle", base=exports.checkpoint(base), forms=["fused"])
    assert manifest.source.name == f"adapter on {exports.checkpoint(base).name}"
    model = SwitchModel.load(tmp_path / "bundle", device="cpu", threads=1)
    network = merged_by_peft(folder, exports.checkpoint(base))
    inputs = Inputs.random(list(range(3, 23)), seed=20)
    ids = [row[: index + 3] for index, row in enumerate(inputs.input_ids.tolist())]
    for beams in (1, 3):
        options = DecodingOptions(max_new_tokens=12, num_beams=beams)
        generations = model.generate(ids, options)
        assert [[one.token_ids for one in of_input] for of_input in generations] == (
            theirs(network, inputs, options).token_ids
        )

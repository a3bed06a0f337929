"""Deriving architectures: from small checkpoints on disk, and from the shapes of the published ones."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from published import C_2048, LARGE_128, XXL_128, derived, different, infos, unasked

from architectures import BASE_8
from checkpoints import CHECKPOINTS, EMBEDDING_NAMES, expressible, weights, write_checkpoint
from places import SHARED_DATA
from pointsman.bundle import Stack
from pointsman_export.architecture import derive, derive_from, expected_tensors
from pointsman_export.checkpoint import Checkpoint

CONFIGS = SHARED_DATA / "switch_configs"
UNTIED_BY_DEFAULT = (
    "config.json leaves tie_word_embeddings at its default of true, and lm_head.weight is not the embedding: "
    "the head is not tied."
)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_what_was_written_is_found(tmp_path, name):
    spec = CHECKPOINTS[name]
    with Checkpoint.open(write_checkpoint(tmp_path, spec)) as checkpoint:
        found = derive_from(checkpoint)
        assert found.architecture == spec.architecture
        assert found.unused == ()
        expected = weights(spec)
        assert found.names.keys() == expected.keys()
        for canonical, stored in found.names.items():
            assert checkpoint.read(stored).tobytes() == expected[canonical].view(torch.uint8).numpy().tobytes()


TRUTHFUL = [name for name, spec in CHECKPOINTS.items() if spec.encoder_step and spec.decoder_step]


@pytest.mark.parametrize("name", TRUTHFUL)
def test_a_truthful_config_is_not_contradicted(name):
    spec = CHECKPOINTS[name]
    assert derive(infos(spec.architecture), spec.config, same_values=different).disagreements == ()


@pytest.mark.parametrize("name", [name for name, spec in CHECKPOINTS.items() if expressible(spec)])
def test_expected_tensors_are_those_of_transformers(name):
    from transformers import SwitchTransformersConfig, SwitchTransformersForConditionalGeneration

    spec = CHECKPOINTS[name]
    with torch.device("meta"):
        model = SwitchTransformersForConditionalGeneration(SwitchTransformersConfig(**spec.config))
    theirs = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    for copy in EMBEDDING_NAMES[1:3] if not spec.tied else EMBEDDING_NAMES[1:]:
        del theirs[copy]
    assert expected_tensors(spec.architecture) == theirs


@pytest.mark.parametrize(
    ("file", "architecture", "disagreements"),
    [
        ("reconstructed.switch-base-8.config.json", BASE_8, ()),
        ("verified.switch-base-32.config.json", replace(BASE_8, num_experts=32), ()),
        ("verified.switch-base-64.config.json", replace(BASE_8, num_experts=64), ()),
        ("verified.switch-base-256.config.json", replace(BASE_8, num_experts=256), ()),
        (
            "verified.switch-c-2048.config.json",
            C_2048,
            (
                "config.json says num_decoder_layers is 12, and the weights have 15.",
                "config.json says decoder_sparse_step is 0 (sparse blocks: none), and the weights have 0 to 14.",
                UNTIED_BY_DEFAULT,
            ),
        ),
        (
            "verified.hf-internal-testing.tiny-random-SwitchTransformersModel.config.json",
            replace(
                BASE_8,
                vocab_size=32100,
                d_model=32,
                d_kv=8,
                d_ff=37,
                num_heads=4,
                encoder=Stack(layers=5, sparse_layers=tuple(range(5))),
                decoder=Stack(layers=5, sparse_layers=tuple(range(5))),
                relative_buckets=8,
                expert_capacity=100,
            ),
            (
                "config.json says num_sparse_encoder_layers is 3, and the weights have 5.",
                "config.json says num_sparse_decoder_layers is 3, and the weights have 5.",
            ),
        ),
    ],
)
def test_published_configs(file, architecture, disagreements):
    if not CONFIGS.is_dir():
        pytest.skip("the published configs are not beside this checkout")
    config = json.loads((CONFIGS / file).read_text())
    found = derive(infos(architecture), config, same_values=different)
    assert found.architecture == architecture
    assert found.disagreements == disagreements
    assert found.unused == ()


@pytest.mark.parametrize(
    ("architecture", "parameters"),
    [
        (BASE_8, 619_339_008),
        (replace(BASE_8, num_experts=256), 14_655_000_000),
        (LARGE_128, 26_300_000_000),
        (XXL_128, 394_700_000_000),
        (C_2048, 1_571_000_000_000),
    ],
    ids=["base-8", "base-256", "large-128", "xxl-128", "c-2048"],
)
def test_published_numbers_of_parameters(architecture, parameters):
    """base-8's is known to the last one; the others as published, to about four digits."""
    counted = sum(int(np.prod(shape)) for shape in expected_tensors(architecture).values())
    assert counted == pytest.approx(parameters, rel=0 if parameters == 619_339_008 else 2e-3)


@pytest.mark.parametrize(
    ("config", "activation", "sentences"),
    [
        ({"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new", "is_gated_act": True}, "gelu_tanh", 0),
        ({"feed_forward_proj": "gated-gelu"}, "gelu_tanh", 0),
        ({"is_gated_act": True, "dense_act_fn": "gelu"}, "gelu_tanh", 0),
        ({"feed_forward_proj": "gated-silu", "dense_act_fn": "silu"}, "silu", 0),
        ({"feed_forward_proj": "relu", "dense_act_fn": "relu", "is_gated_act": False}, "gelu_tanh", 1),
        ({}, "gelu_tanh", 1),
    ],
)
def test_gated_feed_forward(config, activation, sentences):
    found = derive(infos(XXL_128), config, same_values=different)
    assert found.architecture == replace(XXL_128, activation=activation)
    assert sum("gated" in sentence for sentence in found.disagreements) == sentences


@pytest.mark.parametrize(
    ("config", "activation", "sentences"),
    [
        ({"dense_act_fn": "gelu"}, "gelu", ()),
        ({"dense_act_fn": "gelu_new"}, "gelu_tanh", ()),
        ({"dense_act_fn": None, "feed_forward_proj": "relu"}, "relu", ()),
        ({"dense_act_fn": "gelu", "feed_forward_proj": "relu"}, "gelu", ()),
        (
            {"feed_forward_proj": "gelu"},
            "relu",
            ("config.json says gelu in feed_forward_proj; without dense_act_fn, transformers computes relu.",),
        ),
        ({"is_gated_act": True}, "relu", ("config.json says that FFNs are gated, and the weights have wi alone.",)),
    ],
)
def test_plain_feed_forward(config, activation, sentences):
    found = derive(infos(BASE_8), config, same_values=different)
    assert found.architecture.activation == activation
    assert found.disagreements == sentences


@pytest.mark.parametrize("encoder", [(), (0,), (0, 3), (2, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize("decoder", [(), (1,), (0, 1, 4)])
def test_any_set_of_blocks_can_be_sparse(encoder, decoder):
    architecture = replace(
        BASE_8,
        num_experts=3 if encoder or decoder else 0,
        encoder=Stack(layers=4, sparse_layers=encoder),
        decoder=Stack(layers=5, sparse_layers=decoder),
    )
    assert derive(infos(architecture), {}, same_values=unasked).architecture == architecture


WRONG = {
    "num_layers": 6,
    "num_decoder_layers": 2,
    "num_sparse_encoder_layers": 1,
    "num_sparse_decoder_layers": 9,
    "num_experts": 64,
    "d_model": 768,
    "d_kv": 64,
    "d_ff": 2048,
    "num_heads": 12,
    "vocab_size": 32128,
    "router_bias": True,
    "relative_attention_num_buckets": 8,
}


@pytest.mark.parametrize(("key", "value"), WRONG.items())
def test_the_weights_win_and_say_so(key, value):
    found = derived(lambda tensors: None, **{key: value})
    right = CHECKPOINTS["tied"].config[key] if "num_sparse" not in key else 2
    assert found.architecture == CHECKPOINTS["tied"].architecture
    assert found.disagreements == (f"config.json says {key} is {value}, and the weights have {right}.",)


def test_sparse_steps_and_router_precision_that_the_weights_contradict():
    found = derived(lambda tensors: None, encoder_sparse_step=1, router_dtype="bfloat16")
    assert found.disagreements == (
        "config.json says encoder_sparse_step is 1 (sparse blocks: 0 to 3), and the weights have 1, 3.",
        "config.json says router_dtype is bfloat16, and Pointsman routes in float32.",
    )


def test_hints_are_taken_from_the_config_and_default_as_in_transformers():
    hints = {
        "expert_capacity": 7,
        "layer_norm_epsilon": 1e-5,
        "relative_attention_max_distance": 64,
        "pad_token_id": 3,
        "eos_token_id": [4],
        "decoder_start_token_id": 5,
    }
    architecture = derive(infos(BASE_8), hints, same_values=unasked).architecture
    assert architecture == replace(
        BASE_8,
        expert_capacity=7,
        layer_norm_epsilon=1e-5,
        relative_max_distance=64,
        pad_token_id=3,
        eos_token_id=4,
        decoder_start_token_id=5,
    )
    assert derive(infos(BASE_8), dict.fromkeys(hints), same_values=unasked).architecture == BASE_8


@pytest.mark.parametrize(("ids", "own"), [([4], 4), ([4, 1], 1), ([5, 4], 5), (1, 1)])
def test_of_several_ends_the_model_s_own_is_t5_s(ids, own):
    found = derive(infos(BASE_8), {"eos_token_id": ids}, same_values=unasked).architecture
    assert found == replace(BASE_8, eos_token_id=own)

"""Deriving architectures: from small checkpoints on disk, and from the shapes of the published ones."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from checkpoints import CHECKPOINTS, EMBEDDING_NAMES, expressible, weights, write_checkpoint, write_tensors
from places import SHARED_DATA
from pointsman.bundle import Architecture, Stack
from pointsman.errors import CheckpointError
from pointsman_export.architecture import Derivation, derive, derive_from, expected_tensors
from pointsman_export.checkpoint import Checkpoint, TensorInfo
from pointsman_export.network import bucket_table

CONFIGS = SHARED_DATA / "switch_configs"
ODD_BLOCKS = tuple(range(1, 24, 2))
PUBLISHED = Architecture(
    vocab_size=32128,
    d_model=768,
    d_kv=64,
    d_ff=3072,
    num_heads=12,
    num_experts=8,
    encoder=Stack(layers=12, sparse_layers=ODD_BLOCKS[:6]),
    decoder=Stack(layers=12, sparse_layers=ODD_BLOCKS[:6]),
    gated=False,
    activation="relu",
    router_bias=False,
    tied_head=True,
    relative_buckets=32,
    relative_max_distance=128,
    layer_norm_epsilon=1e-6,
    expert_capacity=64,
    pad_token_id=0,
    eos_token_id=1,
    decoder_start_token_id=0,
)
ALL_15 = Stack(layers=15, sparse_layers=tuple(range(15)))
C_2048 = replace(
    PUBLISHED,
    d_model=2080,
    d_ff=6144,
    num_heads=30,
    num_experts=2048,
    encoder=ALL_15,
    decoder=ALL_15,
    tied_head=False,
)
LARGE = Stack(layers=24, sparse_layers=ODD_BLOCKS)
LARGE_128 = replace(PUBLISHED, d_model=1024, d_ff=4096, num_heads=16, num_experts=128, encoder=LARGE, decoder=LARGE)
XXL_128 = replace(
    LARGE_128, d_model=4096, d_ff=10240, num_heads=64, gated=True, activation="gelu_tanh", tied_head=False
)
UNTIED_BY_DEFAULT = (
    "config.json leaves tie_word_embeddings at its default of true, and lm_head.weight is not the embedding: "
    "the head is not tied."
)


def infos(architecture: Architecture) -> dict[str, TensorInfo]:
    return {name: TensorInfo(name, shape, "float32") for name, shape in expected_tensors(architecture).items()}


def different(first: str, second: str) -> bool:
    return False


def equal(first: str, second: str) -> bool:
    return True


def unasked(first: str, second: str) -> bool:
    raise AssertionError(f"{first} and {second} need no comparison")


def derived(change: Callable[[dict[str, TensorInfo]], object], **config: object) -> Derivation:
    tensors = infos(CHECKPOINTS["tied"].architecture)
    change(tensors)
    return derive(tensors, CHECKPOINTS["tied"].config | config, same_values=different)


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
        ("reconstructed.switch-base-8.config.json", PUBLISHED, ()),
        ("verified.switch-base-32.config.json", replace(PUBLISHED, num_experts=32), ()),
        ("verified.switch-base-64.config.json", replace(PUBLISHED, num_experts=64), ()),
        ("verified.switch-base-256.config.json", replace(PUBLISHED, num_experts=256), ()),
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
                PUBLISHED,
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
        (PUBLISHED, 619_339_008),
        (replace(PUBLISHED, num_experts=256), 14_655_000_000),
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
        ({"is_gated_act": True}, "relu", ("config.json says that FFNs are gated, and the weights have wi alone.",)),
    ],
)
def test_plain_feed_forward(config, activation, sentences):
    found = derive(infos(PUBLISHED), config, same_values=different)
    assert found.architecture.activation == activation
    assert found.disagreements == sentences


HEADS = {
    "absent": (False, {}, unasked, True, ()),
    "absent, said tied": (False, {"tie_word_embeddings": True}, unasked, True, ()),
    "absent, said untied": (
        False,
        {"tie_word_embeddings": False},
        unasked,
        True,
        ("config.json says tie_word_embeddings is false, and there is no head other than the embedding.",),
    ),
    "a copy": (True, {}, equal, True, ()),
    "a copy, said tied": (True, {"tie_word_embeddings": True}, equal, True, ()),
    "a copy, said untied": (True, {"tie_word_embeddings": False}, equal, False, ()),
    "another": (True, {}, different, False, (UNTIED_BY_DEFAULT,)),
    "another, said tied": (
        True,
        {"tie_word_embeddings": True},
        different,
        False,
        (UNTIED_BY_DEFAULT.replace("leaves tie_word_embeddings at its default of", "says tie_word_embeddings is"),),
    ),
    "another, said untied": (True, {"tie_word_embeddings": False}, different, False, ()),
}


@pytest.mark.parametrize(
    ("present", "config", "same_values", "tied", "disagreements"), HEADS.values(), ids=HEADS.keys()
)
def test_whether_the_head_is_tied(present, config, same_values, tied, disagreements):
    found = derive(infos(replace(PUBLISHED, tied_head=not present)), config, same_values=same_values)
    assert found.architecture.tied_head is tied
    assert ("lm_head.weight" in found.names) is not tied
    assert found.disagreements == disagreements
    assert found.unused == ()


@pytest.mark.parametrize("names", [*((name,) for name in EMBEDDING_NAMES), EMBEDDING_NAMES, EMBEDDING_NAMES[1:]])
@pytest.mark.parametrize("layout", ["safetensors", "bin"])
def test_any_spelling_of_a_tied_embedding(tmp_path, names, layout):
    spec = replace(CHECKPOINTS["tied"], embedding_names=names, layout=layout)
    with Checkpoint.open(write_checkpoint(tmp_path, spec)) as checkpoint:
        found = derive_from(checkpoint)
    assert found.architecture == spec.architecture
    assert found.names["shared.weight"] == names[0]
    assert found.unused == found.disagreements == ()


def test_stacks_with_embeddings_of_their_own(tmp_path):
    tensors = weights(CHECKPOINTS["tied"])
    tensors["decoder.embed_tokens.weight"] = tensors["shared.weight"] + 1
    write_tensors(tmp_path, tensors, "safetensors")
    (tmp_path / "config.json").write_text("{}")
    sentence = r"^decoder\.embed_tokens\.weight differs from shared\.weight; encoder and decoder must"
    with Checkpoint.open(tmp_path) as checkpoint, pytest.raises(CheckpointError, match=sentence):
        derive_from(checkpoint)


@pytest.mark.parametrize("encoder", [(), (0,), (0, 3), (2, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize("decoder", [(), (1,), (0, 1, 4)])
def test_any_set_of_blocks_can_be_sparse(encoder, decoder):
    architecture = replace(
        PUBLISHED,
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


def test_tensors_of_no_use_are_listed():
    extra = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", "optimizer.step")
    found = derived(lambda tensors: tensors.update({name: TensorInfo(name, (1,), "float32") for name in extra}))
    assert found.unused == extra


TYPES = {
    "weights": ({"encoder.final_layer_norm.weight": "I64"}, "encoder.final_layer_norm.weight (I64)"),
    "the embedding": ({"shared.weight": "float64"}, "shared.weight (float64)"),
    "a copy of it": ({"lm_head.weight": "F8_E4M3"}, "lm_head.weight (F8_E4M3)"),
}


@pytest.mark.parametrize(("dtypes", "named"), TYPES.values(), ids=TYPES.keys())
def test_dtypes_that_are_not_supported_are_named_where_the_model_uses_them(dtypes, named):
    tensors = infos(replace(PUBLISHED, tied_head=False))
    tensors |= {name: TensorInfo(name, tensors[name].shape, dtype) for name, dtype in dtypes.items()}
    with pytest.raises(CheckpointError) as raised:
        derive(tensors, {}, same_values=unasked if set(dtypes) & set(EMBEDDING_NAMES) else different)
    assert str(raised.value) == (
        f"the checkpoint holds dtypes that are not supported: {named}; save it as float32, bfloat16 or float16"
    )


@pytest.mark.parametrize("layout", ["safetensors", "bin"])
def test_a_tensor_of_no_use_may_have_any_dtype(tmp_path, layout):
    write_checkpoint(tmp_path, CHECKPOINTS["tied"])
    (tmp_path / "model.safetensors").unlink()
    write_tensors(tmp_path, weights(CHECKPOINTS["tied"]) | {"position_ids": torch.arange(9)}, layout)
    with Checkpoint.open(tmp_path) as checkpoint:
        found = derive_from(checkpoint)
    assert found.architecture == CHECKPOINTS["tied"].architecture
    assert found.unused == ("position_ids",)


def without(*words: str):
    """Drop the tensors whose names hold any of the words."""

    def change(tensors: dict[str, TensorInfo]) -> None:
        for name in [name for name in tensors if any(word in name for word in words)]:
            del tensors[name]

    return change


def reshaped(name: str, shape: tuple[int, ...]):
    return lambda tensors: tensors.update({name: TensorInfo(name, shape, "float32")})


EXPERTS = "encoder.block.1.layer.1.mlp.experts.expert_"
INCOMPLETE = {
    "no embedding": (without("shared.weight"), r"has no embedding \(shared\.weight\)"),
    "no decoder": (without("decoder."), r"has no decoder blocks; use a complete Switch encoder-decoder"),
    "no relative bias": (without("relative_attention_bias"), r"has no relative position bias"),
    "one relative bias": (
        without("encoder.block.0.layer.0.SelfAttention.relative_attention_bias"),
        r"lacks encoder\.block\.0\.layer\.0\.SelfAttention\.relative_attention_bias\.weight; use an intact one$",
    ),
    "a tensor": (
        without("encoder.block.2.layer.0.SelfAttention.q"),
        r"it lacks encoder\.block\.2\.layer\.0\.SelfAttention\.q\.weight; use an intact one$",
    ),
    "a block": (without("encoder.block.2."), r"has encoder block 3 and lacks 2; use a complete one$"),
    "an expert": (without(f"{EXPERTS}5."), r"it lacks expert 5 of encoder block 1; use an intact one$"),
    "half of an expert": (without(f"{EXPERTS}5.wi"), r"it lacks encoder\.block\.1\..*\.expert_5\.wi\.weight; use"),
    "two experts": (
        without(f"{EXPERTS}5.", "decoder.block.3.layer.2.mlp.experts.expert_7."),
        r"it lacks expert 5 of encoder block 1, expert 7 of decoder block 3; use",
    ),
    "a router": (
        without("encoder.block.1.layer.1.mlp.router"),
        r"it lacks encoder\.block\.1\.\S+\.classifier\.weight",
    ),
    "every router": (without("router"), r"has experts and no router \(mlp\.router\.classifier\.weight\)"),
    "an FFN of another width": (
        reshaped("encoder.block.0.layer.1.mlp.wi.weight", (7, 32)),
        r"encoder\.block\.0\.layer\.1\.mlp\.wi\.weight is \[7, 32\] and should be \[48, 32\]; use an intact one$",
    ),
    "more experts in one block": (
        reshaped("encoder.block.1.layer.1.mlp.router.classifier.weight", (9, 32)),
        r"classifier\.weight is \[9, 32\] and should be \[8, 32\]",
    ),
    "missing and misshapen": (
        lambda tensors: [
            change(tensors)
            for change in (without("encoder.final_layer_norm"), reshaped("decoder.final_layer_norm.weight", (33,)))
        ],
        r"it lacks encoder\.final_layer_norm\.weight; decoder\.final_layer_norm\.weight is \[33\] and should be",
    ),
    "a transposed embedding": (
        reshaped("shared.weight", (32, 128)),
        r"is \[32\] and should be \[128\], .* and \d+ more; use an intact one$",
    ),
    "heads that do not divide": (
        lambda tensors: [
            reshaped(name, (32, 5))(tensors) for name in list(tensors) if "relative_attention_bias" in name
        ],
        r"32 rows of queries cannot be split into 5 heads",
    ),
    **{
        f"a relative bias of {shape}": (
            lambda tensors, shape=shape: [
                reshaped(name, shape)(tensors) for name in list(tensors) if "relative_attention_bias" in name
            ],
            rf"^the relative position bias has {shape[0]} buckets and {shape[1]} heads, and needs 4 and 1; use an",
        )
        for shape in ((3, 4), (2, 4), (1, 4), (0, 4), (32, 0))
    },
    "gated and plain": (
        reshaped("encoder.block.0.layer.1.mlp.wi_0.weight", (48, 32)),
        r"it lacks encoder\.block\.0\.layer\.1\.mlp\.wi_1\.weight, ",
    ),
    "a block far away": (
        reshaped("decoder.block.999999999.layer.0.layer_norm.weight", (32,)),
        r"has decoder block 999999999 and lacks 4; use",
    ),
    "nothing": (without(""), r"has no embedding"),
}


@pytest.mark.parametrize(("change", "sentence"), INCOMPLETE.values(), ids=INCOMPLETE.keys())
def test_what_is_missing_or_misshapen_is_named(change, sentence):
    with pytest.raises(CheckpointError, match=sentence) as raised:
        derived(change)
    assert "\n" not in str(raised.value)


IMPOSSIBLE = {
    "expert_capacity": (0, "it must be an integer of at least 1"),
    "relative_attention_max_distance": ("far", "it must be an integer of at least 1"),
    "layer_norm_epsilon": (-1.0, "it must be a number between 0 and 1"),
    "pad_token_id": (-1, "it must be an integer of at least 0"),
    "eos_token_id": ([1, 2], "it must be an integer of at least 0"),
    "decoder_start_token_id": (128, "it must be below the 128 of the vocabulary"),
    "num_selected_experts": (2, "Switch routes to one expert"),
    "dense_act_fn": ("mish", "it must be one of relu, "),
}


@pytest.mark.parametrize(("key", "value", "sentence"), [(key, *rest) for key, rest in IMPOSSIBLE.items()])
def test_a_hint_that_cannot_be_meant(key, value, sentence):
    with pytest.raises(CheckpointError, match=rf"^config\.json .*; {sentence}"):
        derived(lambda tensors: None, **{key: value})


def with_buckets(buckets: int, distance: int) -> Architecture:
    config = {"relative_attention_max_distance": distance}
    return derive(infos(replace(PUBLISHED, relative_buckets=buckets)), config, same_values=unasked).architecture


@pytest.mark.parametrize(("buckets", "distance"), [(32, 17), (5, 3), (4, 3)])
def test_the_nearest_distance_that_can_share_the_last_bucket(buckets, distance):
    for bidirectional in (False, True):
        table = bucket_table(with_buckets(buckets, distance), bidirectional=bidirectional)
        assert set(table.tolist()) <= set(range(buckets))
        assert table[0] == (buckets // 2 if bidirectional else buckets) - 1


@pytest.mark.parametrize(("buckets", "distance"), [(32, 16), (32, 8), (32, 4), (32, 1), (5, 2), (4, 2), (258, 128)])
def test_a_distance_within_those_that_have_buckets_of_their_own(buckets, distance):
    with pytest.raises(CheckpointError) as raised:
        with_buckets(buckets, distance)
    assert str(raised.value) == (
        f"config.json leads to a relative_attention_max_distance of {distance}; "
        f"it must be above {buckets // 2}, half of the {buckets} buckets"
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
    architecture = derive(infos(PUBLISHED), hints, same_values=unasked).architecture
    assert architecture == replace(
        PUBLISHED,
        expert_capacity=7,
        layer_norm_epsilon=1e-5,
        relative_max_distance=64,
        pad_token_id=3,
        eos_token_id=4,
        decoder_start_token_id=5,
    )
    assert derive(infos(PUBLISHED), dict.fromkeys(hints), same_values=unasked).architecture == PUBLISHED

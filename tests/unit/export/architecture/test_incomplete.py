"""What a checkpoint lacks, or a config cannot mean, is named in one sentence."""

from dataclasses import replace

import pytest
import torch
from published import derived, different, infos, unasked

from architectures import BASE_8
from checkpoints import CHECKPOINTS, EMBEDDING_NAMES, weights, write_checkpoint, write_tensors
from pointsman.bundle import Architecture
from pointsman.errors import CheckpointError
from pointsman_export.architecture import derive, derive_from
from pointsman_export.checkpoint import Checkpoint, TensorInfo
from pointsman_export.network import bucket_table

TYPES = {
    "weights": ({"encoder.final_layer_norm.weight": "I64"}, "encoder.final_layer_norm.weight (I64)"),
    "the embedding": ({"shared.weight": "float64"}, "shared.weight (float64)"),
    "a copy of it": ({"lm_head.weight": "F8_E4M3"}, "lm_head.weight (F8_E4M3)"),
}


@pytest.mark.parametrize(("dtypes", "named"), TYPES.values(), ids=TYPES.keys())
def test_dtypes_that_are_not_supported_are_named_where_the_model_uses_them(dtypes, named):
    tensors = infos(replace(BASE_8, tied_head=False))
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
    assert found.unneeded.keys() == {"position_ids"}


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
    "eos_token_id": (["one"], "it must be an integer of at least 0"),
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
    return derive(infos(replace(BASE_8, relative_buckets=buckets)), config, same_values=unasked).architecture


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

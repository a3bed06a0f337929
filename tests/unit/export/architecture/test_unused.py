"""Tensors that no part of a model is: the few that are known to be unneeded are named, all others stop the export."""

import pytest
from published import derived

from checkpoints import CHECKPOINTS
from pointsman.errors import CheckpointError
from pointsman_export.architecture import expected_tensors, refuse_unused
from pointsman_export.checkpoint import TensorInfo

COPY = "decoder.block.2.layer.0.SelfAttention.relative_attention_bias.weight"
UNNEEDED = {
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": "cross-attention has no position bias",
    "encoder.block.1.layer.1.mlp.router.expert_capacity": "a buffer",
    "position_ids": "a buffer of positions",
    "encoder.position_ids": "a buffer of positions",
    "optimizer.state.exp_avg": "the trainer's state",
    "lr_scheduler.last_epoch": "the trainer's state",
}
UNUSED = (
    "lm_head.bias",
    "encoder.block.0.layer.0.SelfAttention.q.lora_A.weight",
    "encoder.block.0.layer.0.SelfAttention.q.weight.absmax",
    "optimizers.weight",
    "classification_head.weight",
)


def with_extra(*extra: str):
    return lambda tensors: tensors.update({name: TensorInfo(name, (1,), "float32") for name in extra})


@pytest.mark.parametrize(("name", "reason"), UNNEEDED.items())
def test_what_is_known_to_be_unneeded(name, reason):
    found = derived(with_extra(name))
    assert found.unused == ()
    assert found.unneeded[name].startswith(reason)


@pytest.mark.parametrize("name", UNUSED)
def test_anything_else_is_not(name):
    found = derived(with_extra(name))
    assert found.unused == (name,)
    assert found.unneeded == {}


@pytest.mark.parametrize("equal", [True, False])
def test_a_position_bias_of_a_later_block_counts_if_it_differs(equal):
    from pointsman_export.architecture import derive

    spec = CHECKPOINTS["tied"]
    tensors = {name: TensorInfo(name, shape, "float32") for name, shape in expected_tensors(spec.architecture).items()}
    found = derive(tensors | {COPY: TensorInfo(COPY, (32, 4), "float32")}, spec.config, same_values=lambda *_: equal)
    assert (found.unused == (), COPY in found.unneeded) == (equal, equal)


def test_the_sentence_names_some_and_counts_all():
    with pytest.raises(CheckpointError) as raised:
        refuse_unused(UNUSED)
    assert str(raised.value) == (
        "the checkpoint has tensors that no Switch Transformer has (5): lm_head.bias, "
        "encoder.block.0.layer.0.SelfAttention.q.lora_A.weight, encoder.block.0.layer.0.SelfAttention.q.weight.absmax, "
        "optimizers.weight and 1 more; export the model that they were added to, or leave them out "
        "with `ignore_unused=True`"
    )
    refuse_unused(())


@pytest.mark.parametrize("whole", [0, 3])
def test_weights_that_were_never_gathered(whole):
    """DeepSpeed keeps small tensors whole even under ZeRO stage 3."""

    def emptied(tensors):
        for name in [*tensors][whole:]:
            tensors[name] = TensorInfo(name, (0,), "float32")

    with pytest.raises(CheckpointError) as raised:
        derived(emptied)
    expected = expected_tensors(CHECKPOINTS["tied"].architecture)
    assert str(raised.value) == (
        f"{len(expected) - whole} of {len(expected)} tensors have no values, such as {[*expected][whole]}: the "
        "checkpoint was saved under DeepSpeed's ZeRO stage 3 without gathering its weights; make whole ones with the "
        "zero_to_fp32.py beside its shards, and export those"
    )


def test_an_empty_tensor_that_is_no_part_of_the_model_is_nothing_ungathered():
    found = derived(
        lambda tensors: tensors.update({"some._extra_state": TensorInfo("some._extra_state", (0,), "float32")})
    )
    assert found.unused == ("some._extra_state",)

"""Names of a model that was wrapped while it was trained."""

import pytest

from checkpoints import CHECKPOINTS, weights, write_checkpoint, write_tensors
from pointsman.errors import CheckpointError
from pointsman_export.architecture import derive_from
from pointsman_export.checkpoint import Checkpoint
from pointsman_export.checkpoint.wrappers import plain_names

NAMES = ("shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight", "decoder.block.3.layer.2.mlp.wo.weight")
PREFIXES = ("module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.model.", "student.net.")


@pytest.mark.parametrize("prefix", ["", *PREFIXES])
def test_a_prefix_of_all_names_goes(prefix):
    assert plain_names(prefix + name for name in NAMES) == {prefix + name: name for name in NAMES}


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
def test_wrappers_of_parts_of_a_model_go(wrapper):
    wrapped = [name.replace("block.", f"block.{wrapper}.").replace(".layer", f".{wrapper}.layer") for name in NAMES]
    assert [*plain_names(wrapped).values()] == [*NAMES]


def test_what_belongs_to_no_part_of_the_model_keeps_its_name():
    others = ("lm_head.weight", "criterion.weight", "optimizer.encoder.block.0.exp_avg", "optim.shared.weight")
    assert [*plain_names([*(f"model.{name}" for name in NAMES), *others]).values()] == [*NAMES, *others]


@pytest.mark.parametrize("other", ["ema.", "teacher."])
def test_a_model_beside_another_is_the_one_without_a_prefix(other):
    both = [*NAMES, *(other + name for name in NAMES)]
    assert plain_names(both) == {name: name for name in both}


def test_two_models_under_two_prefixes():
    with pytest.raises(CheckpointError) as raised:
        plain_names([f"{side}.{name}" for side in ("teacher", "student") for name in NAMES])
    assert str(raised.value) == "the checkpoint holds several models, under student., teacher.; save one of them alone"


def test_a_name_with_and_without_a_wrapper():
    with pytest.raises(CheckpointError, match=r"^the checkpoint has shared\.weight twice, once in a wrapper; save the"):
        plain_names(["shared.weight", "_orig_mod.shared.weight"])


@pytest.mark.parametrize("layout", ["safetensors-sharded", "bin"])
def test_a_wrapped_checkpoint_is_read_like_any_other(tmp_path, layout):
    spec = CHECKPOINTS["tied"]
    write_checkpoint(tmp_path / "plain", spec)
    expected = weights(spec)
    (tmp_path / "wrapped").mkdir()
    write_tensors(tmp_path / "wrapped", {f"module._orig_mod.{name}": expected[name] for name in expected}, layout)
    (tmp_path / "plain" / "config.json").rename(tmp_path / "wrapped" / "config.json")
    with Checkpoint.open(tmp_path / "wrapped") as checkpoint:
        found = derive_from(checkpoint)
        assert found.architecture == spec.architecture
        assert found.unused == ()
        assert {name: info.name for name, info in checkpoint.tensors.items()} == {name: name for name in expected}
        for name, tensor in expected.items():
            assert checkpoint.read(found.names[name]).tobytes() == tensor.numpy().tobytes()


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_prefix_of_a_part_of_a_model(part):
    names = [f"module.{name}" if name.startswith(part) else name for name in NAMES]
    with pytest.raises(CheckpointError, match=r"^parts of the model stand under .*, module\.; save the"):
        plain_names(names)

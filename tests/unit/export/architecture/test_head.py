"""Where the embedding and the head are, under whatever names, and whether they are one."""

import json
from dataclasses import replace

import pytest
from published import different, equal, infos, unasked

from architectures import BASE_8
from checkpoints import CHECKPOINTS, EMBEDDING_NAMES, weights, write_checkpoint, write_tensors, write_tokenizer
from pointsman.bundle import names
from pointsman.errors import CheckpointError
from pointsman_export.architecture import derive, derive_from
from pointsman_export.bundle import export_bundle
from pointsman_export.checkpoint import Checkpoint, TensorInfo

HEAD_NAMES = ("lm_head.weight", "decoder.lm_head.weight")
NO_HEAD = (
    "config.json says tie_word_embeddings is false, and the checkpoint has no head "
    "(lm_head.weight or decoder.lm_head.weight); use a complete one"
)


def with_head(*heads: str) -> dict[str, TensorInfo]:
    """The shapes of a published model, and heads under these names."""
    tensors = infos(BASE_8)
    return tensors | {name: TensorInfo(name, tensors[names.EMBEDDING].shape, "float32") for name in heads}


HEADS = {
    "absent": (False, {}, unasked, True, ()),
    "absent, said tied": (False, {"tie_word_embeddings": True}, unasked, True, ()),
    "a copy": (True, {}, equal, True, ()),
    "a copy, said tied": (True, {"tie_word_embeddings": True}, equal, True, ()),
    "a copy, said untied": (True, {"tie_word_embeddings": False}, equal, False, ()),
    "another": (True, {}, different, False, ("config.json leaves tie_word_embeddings at its default of true",)),
    "another, said untied": (True, {"tie_word_embeddings": False}, different, False, ()),
}


@pytest.mark.parametrize("name", HEAD_NAMES)
@pytest.mark.parametrize(("present", "config", "same_values", "tied", "said"), HEADS.values(), ids=HEADS.keys())
def test_whether_the_head_is_tied(present, config, same_values, tied, said, name):
    found = derive(with_head(*([name] if present else [])), config, same_values=same_values)
    assert found.architecture == replace(BASE_8, tied_head=tied)
    assert found.names.get(names.HEAD) == (None if tied else name)
    assert found.disagreements == tuple(
        f"{sentence}, and {name} is not the embedding: the head is not tied." for sentence in said
    )
    assert found.unused == ()


@pytest.mark.parametrize("name", HEAD_NAMES)
def test_another_head_that_is_said_to_be_tied(name):
    """transformers, which knows the first name alone, scales what such a head reads."""
    found = derive(with_head(name), {"tie_word_embeddings": True}, same_values=different)
    scaled = name == names.HEAD
    assert found.architecture == replace(BASE_8, tied_head=False, scaled_head=scaled)
    assert found.disagreements == (
        f"config.json says tie_word_embeddings is true, and {name} is not the embedding: the head is not tied"
        + (", and its input is scaled as a tied one's." if scaled else "."),
    )


@pytest.mark.parametrize("tied", [True, False])
def test_both_names_of_one_head(tied):
    """Compared with each other, and with the embedding."""
    found = derive(with_head(*HEAD_NAMES), {}, same_values=lambda first, _: tied or first in HEAD_NAMES)
    assert found.architecture.tied_head is tied
    assert found.names.get(names.HEAD) == (None if tied else HEAD_NAMES[0])
    assert found.unused == ()


@pytest.mark.parametrize("config", [{}, {"tie_word_embeddings": False}])
def test_two_heads_that_differ(config):
    with pytest.raises(CheckpointError) as raised:
        derive(with_head(*HEAD_NAMES), config, same_values=different)
    assert str(raised.value) == ("decoder.lm_head.weight differs from lm_head.weight; use a checkpoint with one head")


def test_a_config_that_promises_a_head_that_is_not_there():
    with pytest.raises(CheckpointError) as raised:
        derive(with_head(), {"tie_word_embeddings": False}, same_values=unasked)
    assert str(raised.value) == NO_HEAD


def test_the_embedding_of_an_untied_model_is_not_looked_for_in_its_head():
    """Published xxl-128 and c-2048 have a config that does not say that they are untied."""
    tensors = with_head("decoder.lm_head.weight")
    del tensors[names.EMBEDDING]
    with pytest.raises(CheckpointError, match=r"has no embedding \(shared\.weight\)"):
        derive(tensors, {}, same_values=unasked)


@pytest.mark.parametrize("name", ["untied", "gated"])
def test_either_name_of_the_head_gives_the_same_bundle(tmp_path, name):
    """As published models have it: no embedding but `shared.weight`, and a config that says nothing of the head."""
    spec, bundles = replace(CHECKPOINTS[name], embedding_names=("shared.weight",)), []
    for head in HEAD_NAMES:
        folder = tmp_path / f"{head} in a checkpoint" / "checkpoint"
        tensors = weights(spec)
        tensors[head] = tensors.pop(names.HEAD)
        write_tensors(folder, tensors, spec.layout)
        config = {key: value for key, value in spec.config.items() if key != "tie_word_embeddings"}
        (folder / "config.json").write_text(json.dumps(config))
        write_tokenizer(folder)
        bundles.append(export_bundle(folder, tmp_path / head, forms=["fused"]))
    assert [bundle.architecture for bundle in bundles] == [spec.architecture] * 2
    first, second = (bundle.variants["fused-float32"].files for bundle in bundles)
    assert first == second
    assert [bundle.source.unused for bundle in bundles] == [()] * 2


@pytest.mark.parametrize("spellings", [*((name,) for name in EMBEDDING_NAMES), EMBEDDING_NAMES, EMBEDDING_NAMES[1:]])
@pytest.mark.parametrize("layout", ["safetensors", "bin"])
def test_any_spelling_of_a_tied_embedding(tmp_path, spellings, layout):
    spec = replace(CHECKPOINTS["tied"], embedding_names=spellings, layout=layout)
    with Checkpoint.open(write_checkpoint(tmp_path, spec)) as checkpoint:
        found = derive_from(checkpoint)
    assert found.architecture == spec.architecture
    assert found.names["shared.weight"] == spellings[0]
    assert found.unused == found.disagreements == ()


@pytest.mark.parametrize("said", [None, True, False])
def test_stacks_with_embeddings_of_their_own(tmp_path, said):
    tensors = weights(CHECKPOINTS["tied"])
    apart = {name: tensors[names.EMBEDDING] + 1 + number for number, name in enumerate(EMBEDDING_NAMES[1:])}
    write_tensors(tmp_path, tensors | apart, "safetensors")
    (tmp_path / "config.json").write_text(json.dumps({} if said is None else {"tie_word_embeddings": said}))
    with Checkpoint.open(tmp_path) as checkpoint:
        found = derive_from(checkpoint)
    assert found.architecture.separate_embeddings
    assert found.architecture.scaled_head is (said is True)
    assert {name: found.names[name] for name in EMBEDDING_NAMES[1:]} == {name: name for name in EMBEDDING_NAMES[1:]}
    assert names.EMBEDDING not in found.names
    sentence = f"{EMBEDDING_NAMES[2]} is not {EMBEDDING_NAMES[1]}: each stack has an embedding of its own."
    assert [line for line in found.disagreements if line.endswith(sentence)] == [*found.disagreements][:1]
    assert bool(found.disagreements) is (said is not False)
    assert found.unused == ()

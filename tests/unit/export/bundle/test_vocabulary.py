"""The vocabulary that a bundle gets, and what serving makes of it."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from checkpoints import CHECKPOINTS, write_checkpoint, write_tokenizer
from pointsman import Infiller
from pointsman.bundle import Manifest, verify_files
from pointsman.text.tokenizer import Tokenizer
from pointsman_export.bundle import export_bundle

SPARE = 200
ROWS = 85 + SPARE  # 64 pieces, 20 sentinels and an added token


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A fine-tuned one as transformers 5 saves it: tokenizer.json, an added token, an embedding with spare rows."""
    folder = write_checkpoint(tmp_path_factory.mktemp("checkpoint"), CHECKPOINTS["tied"], vocab_size=ROWS)
    write_tokenizer(folder)
    reference = AutoTokenizer.from_pretrained(folder)
    reference.add_tokens(["[URL]"])
    (folder / "spiece.model").unlink()
    reference.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory) -> tuple[Path, Manifest]:
    target = tmp_path_factory.mktemp("bundles") / "bundle"
    return target, export_bundle(checkpoint, target, forms=["fused"])


def test_it_is_the_checkpoint_s_own(checkpoint, exported):
    target, manifest = exported
    assert [record.path for record in manifest.tokenizer] == [
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
    ]
    verify_files(target, manifest.tokenizer)
    assert manifest.extra_ids == 20
    ours, reference = Tokenizer.load(target / "tokenizer"), AutoTokenizer.from_pretrained(checkpoint)
    text = "The [URL]<extra_id_0>walks in <extra_id_19>."
    assert ours.vocabulary == Tokenizer.load(checkpoint).vocabulary
    assert ours.encode(text) == reference(text).input_ids
    assert ours.encode("[URL]", add_eos=False) == [84]


@pytest.mark.parametrize("search", [{}, {"num_beams": 3}, {"do_sample": True, "temperature": 5.0}])
def test_rows_without_an_id_are_never_generated(exported, search):
    target, _ = exported
    infiller = Infiller.load(target, device="cpu")
    fills = infiller.infill("A <extra_id_3> b [URL] <extra_id_0>", max_new_tokens=40, min_new_tokens=38, **search)
    ids = [token for fill in fills for span in fill.spans for token in span.token_ids]
    assert len(ids) >= 30
    assert max(ids) < ROWS - SPARE
    assert infiller.tokenizer.decode([*range(ROWS - SPARE, ROWS)]) == ""


def test_a_configuration_lists_what_the_reference_reads(exported):
    target, _ = exported
    config = json.loads((target / "tokenizer/tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "T5Tokenizer"
    reference = AutoTokenizer.from_pretrained(target / "tokenizer")
    assert reference("[URL] <extra_id_0>").input_ids == [84, 83, 1]

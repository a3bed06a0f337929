"""A bundle whose caller says nothing generates as `generate` of transformers 5.23.0 does with the same files."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from checkpoints import reference
from parity.decoding_reference import Inputs
from pointsman import Infiller
from pointsman.bundle import write_manifest
from pointsman.decoding import DecodingOptions
from pointsman.errors import OptionsError
from pointsman.inspection import as_text, inspect_bundle
from pointsman.model import SwitchModel
from pointsman_export.architecture import generation_from
from pointsman_export.bundle import export_bundle
from pointsman_export.checkpoint import Checkpoint

IDS = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
GENERATION = {
    "beams and lengths": {
        "num_beams": 3,
        "max_length": 12,
        "min_length": 6,
        "length_penalty": 2.0,
        "early_stopping": True,
    },
    "greedily, to another length": {"max_new_tokens": 7, "no_repeat_ngram_size": 2, "repetition_penalty": 1.2},
    "another start and two ends": {"decoder_start_token_id": 7, "eos_token_id": [1, 14, 15], "max_length": 14},
    "forced and suppressed": {
        "forced_bos_token_id": 25,
        "forced_eos_token_id": 1,
        "suppress_tokens": [14],
        "begin_suppress_tokens": [15],
        "bad_words_ids": [[25, 21], [76]],
        "max_length": 9,
        "num_beams": 2,
    },
    "several": {"num_beams": 4, "num_return_sequences": 3, "max_length": 10},
}
INPUTS = Inputs.random([5, 12, 3, 9], seed=11)


@pytest.fixture(scope="module")
def exported(exports):
    return exports("tied")


def with_settings(
    folder: Path, exported, said: dict[str, object], *, in_config: bool = False
) -> tuple[Path, SwitchModel]:
    """A copy of the checkpoint that says so, and the model of a bundle that was made of it.

    Settings are no part of a graph: the bundle is the plain one with another manifest, as the exporter writes it.
    """
    checkpoint = shutil.copytree(exported.checkpoint, folder / "checkpoint")
    if in_config:
        config = json.loads((checkpoint / "config.json").read_text())
        (checkpoint / "config.json").write_text(json.dumps(config | said))
    else:
        (checkpoint / "generation_config.json").write_text(json.dumps(IDS | said))
    bundle = shutil.copytree(exported.folder, folder / "bundle")
    manifest = exported.manifest
    with Checkpoint.open(checkpoint) as opened:
        settings = generation_from(opened, manifest.architecture, max_tokens=manifest.limits.tokens)
    write_manifest(replace(manifest, generation=settings), bundle)
    return checkpoint, SwitchModel.load(bundle, device="cpu", threads=1)


def generated(model: SwitchModel, **options) -> list[list[tuple[int, ...]]]:
    ids = [
        row[:length]
        for row, length in zip(INPUTS.input_ids.tolist(), INPUTS.attention_mask.sum(1).tolist(), strict=True)
    ]
    return [[one.token_ids for one in of_input] for of_input in model.generate(ids, **options)]


def expected(checkpoint: Path, model: SwitchModel) -> list[list[tuple[int, ...]]]:
    network = reference(checkpoint)
    with torch.no_grad():
        rows = network.generate(INPUTS.input_ids, attention_mask=INPUTS.attention_mask)[:, 1:].tolist()
    ends = model.special_tokens.eos_ids
    said = [tuple(row[: next((n + 1 for n, token in enumerate(row) if token in ends), len(row))]) for row in rows]
    count = len(rows) // len(INPUTS)
    return [said[first : first + count] for first in range(0, len(said), count)]


@pytest.mark.parametrize("in_config", [False, True], ids=["generation_config.json", "config.json"])
@pytest.mark.parametrize("said", GENERATION.values(), ids=GENERATION.keys())
def test_tokens_are_those_of_transformers(exported, tmp_path, said, in_config):
    checkpoint, model = with_settings(tmp_path, exported, said, in_config=in_config)
    found = generated(model)
    assert found == expected(checkpoint, model)
    assert found != generated(exported.load())


def test_what_a_caller_says_goes_before(exported, tmp_path):
    _, model = with_settings(tmp_path, exported, {"num_beams": 3, "max_length": 9, "eos_token_id": [1, 14]})
    options = DecodingOptions(max_new_tokens=12)
    assert model.options(None, {"num_beams": 2}) == DecodingOptions(num_beams=2, max_new_tokens=8)
    assert model.options(options, {}) == options
    plain = exported.load()
    shorter = [
        [ids[: ids.index(14) + 1] if 14 in ids else ids for ids in one] for one in generated(plain, options=options)
    ]
    assert generated(model, options=options) == shorter, "ends are the model's, whatever the options"


def test_what_only_sampling_uses_waits_for_it(exported, tmp_path):
    _, model = with_settings(tmp_path, exported, {"temperature": 0.3, "top_k": 2})
    assert model.options(None, {}) == DecodingOptions()
    assert model.options(None, {"do_sample": True}) == DecodingOptions(do_sample=True, temperature=0.3, top_k=2)
    with pytest.raises(OptionsError, match=r"^top_p without do_sample would change nothing"):
        model.options(None, {"top_p": 0.5})


TEXT = "The <extra_id_0> waits by <extra_id_1> box."


def test_fills_follow_them_too(exported, tmp_path):
    with_settings(tmp_path, exported, {"num_beams": 3, "num_return_sequences": 2, "min_length": 41})
    infiller = Infiller.load(tmp_path / "bundle", device="cpu", threads=1)
    plain = Infiller.load(exported.folder, device="cpu", threads=1)
    asked = {"num_beams": 3, "num_return_sequences": 2, "min_new_tokens": 40, "max_new_tokens": 40}
    assert infiller.infill(TEXT) == plain.infill(TEXT, **asked) != plain.infill(TEXT)
    assert infiller.infill(TEXT, num_beams=2, min_new_tokens=0) == plain.infill(
        TEXT, num_beams=2, num_return_sequences=2
    )


@pytest.mark.parametrize("search", [{}, {"num_beams": 3}])
def test_an_end_is_no_part_of_a_span(exported, tmp_path, search):
    plain = Infiller.load(exported.folder, device="cpu", threads=1)
    said = [token for span in plain.infill(TEXT, **search)[0].spans for token in span.token_ids]
    with_settings(tmp_path, exported, {"eos_token_id": [1, said[-1]]})
    (fill,) = Infiller.load(tmp_path / "bundle", device="cpu", threads=1).infill(TEXT, **search)
    assert not any(said[-1] in span.token_ids for span in fill.spans)


def test_inspect_says_which_apply(exported, tmp_path):
    with_settings(tmp_path, exported, {"num_beams": 3, "suppress_tokens": [*range(20, 40)]})
    lines = as_text(inspect_bundle(tmp_path / "bundle", device="cpu")).splitlines()
    (line,) = (line for line in lines if line.startswith("generation"))
    assert line == (
        "generation    unless a call says otherwise, as generation_config.json says: "
        "suppress_tokens 20, 21, 22, 23, 24, 25, 26, 27 and 12 more, num_beams 3"
    )
    plain = as_text(inspect_bundle(exported.folder, device="cpu"))
    assert "\ngeneration    the checkpoint has no settings of its own\n" in plain


def test_an_export_keeps_them_and_says_so(exports, exported, tmp_path, capsys):
    checkpoint = shutil.copytree(exported.checkpoint, tmp_path / "checkpoint")
    (checkpoint / "generation_config.json").write_text(json.dumps(IDS | {"num_beams": 3, "max_length": 12}))
    manifest = export_bundle(checkpoint, tmp_path / "bundle", forms=["fused"])
    ignored = export_bundle(checkpoint, tmp_path / "other", forms=["fused"], ignore_generation_config=True)
    assert manifest.generation is not None
    assert manifest.generation.said() == {"max_new_tokens": 11, "num_beams": 3}
    assert ignored.generation is None
    note = (
        "note: generation_config.json says how to generate, which holds where a call says nothing else: "
        "max_new_tokens 11, num_beams 3.\n"
    )
    assert capsys.readouterr().err.count(note) == 1

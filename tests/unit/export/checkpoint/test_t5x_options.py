"""What the command is given beside a folder of T5X's: the capacity, and where the vocabulary is."""

import json
import shutil

import pytest

from checkpoints import write_tokenizer
from pointsman.errors import TokenizerError
from pointsman_export.bundle import export_bundle
from pointsman_export.cli.main import main
from said import fits, lines
from t5x_checkpoints import SPIECE


def test_there_is_no_reference_for_the_capacity(original, tmp_path, capsys):
    command = ["bundle", str(original), "-o", str(tmp_path / "bundle"), "--tokenizer", str(SPIECE)]
    assert main([*command, "--capacity", "reference"]) == 2
    assert lines(capsys) == [
        (
            "pointsman-export: T5X counts an expert's capacity over groups of a whole batch, so the checkpoint has no "
            "number for a sequence; use --capacity none, or a number"
        )
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("options", "noted"), [([], 1), (["--capacity", "none"], 0), (["--capacity", "7"], 0)])
def test_a_capacity_that_was_not_asked_for_is_noted(original, tmp_path, capsys, options, noted):
    folder = shutil.copytree(original, tmp_path / "checkpoint_500100")
    chunk = folder / "target.encoder.layers_1.mlp.expert.wi.kernel" / "0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:100])  # so that nothing is exported
    assert main(["bundle", str(folder), "-o", str(tmp_path / "bundle"), "--tokenizer", str(SPIECE), *options]) == 2
    note = "note: T5X has no capacity for a sequence: experts accept every token (capacity none)"
    assert lines(capsys).count(note) == noted


VOCABULARIES = {
    "none": (
        [],
        "{folder} has no vocabulary (tokenizer.json or spiece.model); say where one is with --tokenizer: a file, a *",
    ),
    "no such file": (
        ["--tokenizer", "{tmp}/no.model"],
        "there is no file {tmp}/no.model; check what --tokenizer gives",
    ),
    "no such folder": (["--tokenizer", "./no/such"], "there is no folder ./no/such; give a *"),
    "an empty folder": (
        ["--tokenizer", "{tmp}"],
        "{tmp} has no vocabulary (tokenizer.json or spiece.model); check what --tokenizer gives",
    ),
    "another file": (["--tokenizer", "{folder}/checkpoint"], "{folder}/checkpoint: *"),
}


@pytest.mark.parametrize(("options", "sentence"), VOCABULARIES.values(), ids=VOCABULARIES.keys())
def test_a_vocabulary_that_is_not_there(original, tmp_path, capsys, options, sentence):
    places = {"folder": original, "tmp": tmp_path}
    command = ["bundle", str(original), "-o", str(tmp_path / "bundle"), *(o.format(**places) for o in options)]
    assert main(command) == 2
    (line,) = [line for line in lines(capsys) if not line.startswith("note: ")]
    assert fits(line, f"pointsman-export: {sentence.format(**places)}"), line
    assert list(tmp_path.iterdir()) == []


def test_a_vocabulary_of_another_model(original, tmp_path):
    (tmp_path / "tokenizer").mkdir()
    write_tokenizer(tmp_path / "tokenizer")
    added = {f"[{number}]": 84 + number for number in range(5000)}
    (tmp_path / "tokenizer" / "added_tokens.json").write_text(json.dumps(added))
    with pytest.raises(TokenizerError, match=r"^the vocabulary has 5084 ids, .* and the model's embedding 4096 rows: "):
        export_bundle(original, tmp_path / "bundle", tokenizer=tmp_path / "tokenizer")

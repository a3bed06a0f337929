"""Every mistake, and the line that answers it."""

import shutil
from importlib.metadata import version

import pytest
import torch
from spoiling import (
    INDEX,
    SHARD,
    WEIGHTS,
    WI,
    added_tokens,
    change,
    in_config,
    names_in,
    sentences,
    truncate,
    with_nan,
    without_expert,
)

from checkpoints import CHECKPOINTS, write_checkpoint
from pointsman.errors import CheckpointError
from pointsman_export.bundle import export_bundle
from pointsman_export.cli.main import main
from said import fits

MISTAKES = {
    "missing folder": (
        {},
        shutil.rmtree,
        "there is no folder {folder}; give a checkpoint's folder or a model's id on the hub",
    ),
    "a file": (
        {},
        lambda folder: (shutil.rmtree(folder), folder.touch()),
        "{folder} is a file; give the folder that holds it and config.json",
    ),
    "no config": (
        {},
        lambda folder: (folder / "config.json").unlink(),
        "{folder} has no config.json; give the folder of a Hugging Face checkpoint",
    ),
    "a folder above": (
        {},
        lambda folder: (folder / "mine").mkdir() or (folder / "config.json").rename(folder / "mine/config.json"),
        "{folder} has no config.json; give the folder of a Hugging Face checkpoint, such as {folder}/mine",
    ),
    "not Switch": (
        {},
        in_config(model_type="t5"),
        "{folder}/config.json describes a model of type 't5'; Pointsman exports 'switch_transformers' alone",
    ),
    "no weights": (
        {},
        lambda folder: (folder / WEIGHTS).unlink(),
        "{folder} has no weights; it needs one of *",
    ),
    "truncated shard": (
        {"layout": "safetensors-sharded"},
        truncate(SHARD),
        "{folder}/" + SHARD + " is truncated: it has * bytes of *; fetch the file again",
    ),
    "absent shard": (
        {"layout": "safetensors-sharded"},
        lambda folder: (folder / SHARD).unlink(),
        "{folder}/" + INDEX + " names files that are not there: " + SHARD + "; fetch them",
    ),
    "missing tensor": (
        {},
        change(**{"encoder.block.2.layer.0.layer_norm.weight": None}),
        "the checkpoint is incomplete or mixed: it lacks encoder.block.2.layer.0.layer_norm.weight; use an intact one",
    ),
    "misshapen tensor": (
        {},
        change(**{WI: lambda tensor: tensor[:, :-1]}),
        "the checkpoint is incomplete or mixed: " + WI + " is [48, 31] and should be [48, 32]; use an intact one",
    ),
    "missing expert": (
        {},
        without_expert,
        "the checkpoint is incomplete or mixed: it lacks expert 3 of decoder block 1; use an intact one",
    ),
    "missing head": (
        {"tied": False},
        change(**{"lm_head.weight": None}),
        "config.json says tie_word_embeddings is false, and the checkpoint has no head *; use a complete one",
    ),
    "NaN": (
        {},
        change(**{WI: with_nan}),
        WI + " holds 1 values of 1536 that are NaN or Inf; use an intact checkpoint",
    ),
    "a huge weight": (
        {},
        change(**{"shared.weight": lambda tensor: tensor.index_fill(0, torch.tensor([7]), 3e38)}),
        "logits is past float32's range already when the checkpoint itself is run; use one with smaller weights",
    ),
    "no vocabulary": (
        {},
        lambda folder: (folder / "spiece.model").unlink(),
        "{folder} has no vocabulary (tokenizer.json or spiece.model); say where one is with --tokenizer: *",
    ),
    "damaged vocabulary": (
        {},
        lambda folder: (folder / "spiece.model").write_bytes(b"nonsense"),
        "{folder}/spiece.model: *",
    ),
    "added tokens that the embedding has no row for": (
        {},
        added_tokens({f"[{n}]": 84 + n for n in range(50)}),
        "the vocabulary has 134 ids, 20 of them sentinels, and the model's embedding 128 rows: *",
    ),
    "added tokens of other ids than the reference gives": (
        {},
        added_tokens({"[URL]": 90}),
        "{folder}/spiece.model: the added token '[URL]' is id 90 in the files, and transformers 5.23.0 makes it 84: *",
    ),
    "vocabulary larger than the embedding": (
        {"vocab_size": 80},
        lambda folder: None,
        "*84*80*",
    ),
    "vocabulary of other special ids": (
        {},
        in_config(eos_token_id=2),
        "pad and eos are 0 and 1 in the vocabulary, 0 and 2 in the model; use the vocabulary of the same checkpoint",
    ),
    "experts that several tokens choose": (
        {},
        in_config(num_selected_experts=2),
        "config.json says num_selected_experts is not 1; Switch routes to one expert",
    ),
}


@pytest.mark.parametrize(("spec", "break_it", "sentence"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_answered_with_one_line(tmp_path, capsys, spec, break_it, sentence):
    folder = write_checkpoint(tmp_path / "checkpoint", CHECKPOINTS["tied"], tokenizer=True, **spec)
    break_it(folder)
    assert main(["bundle", str(folder), "-o", str(tmp_path / "bundle")]) == 2
    (line,) = sentences(capsys)
    assert fits(line, f"pointsman-export: {sentence.format(folder=folder)}"), line
    assert names_in(tmp_path) <= {"checkpoint"}


def test_an_output_that_exists(checkpoint, tmp_path, capsys):
    target = tmp_path / "bundle"
    target.mkdir()
    assert main(["bundle", str(checkpoint), "-o", str(target)]) == 2
    assert sentences(capsys) == [
        f"pointsman-export: {target} exists; choose another output folder, or replace it with --force"
    ]


def test_an_output_that_force_would_not_replace_either(checkpoint, tmp_path, capsys):
    target = tmp_path / "notes"
    target.mkdir()
    (target / "notes.txt").touch()
    for force in ([], ["--force"]):
        assert main(["bundle", str(checkpoint), "-o", str(target), *force]) == 2
        (line,) = sentences(capsys)
        assert line == (
            f"pointsman-export: {target} exists and is neither a bundle nor an empty folder, and --force replaces "
            "nothing else; choose another output folder"
        )
    assert names_in(target) == {"notes.txt"}


def test_an_output_inside_a_file(checkpoint, tmp_path, capsys):
    (tmp_path / "file").touch()
    target = tmp_path / "file" / "bundle"
    assert main(["bundle", str(checkpoint), "-o", str(target)]) == 2
    assert fits(*sentences(capsys), f"pointsman-export: cannot write {target} (*); choose another output folder")


@pytest.mark.parametrize("capacity", ["0", "-1", "many", "1.5"])
def test_a_capacity_that_is_none(tmp_path, capsys, capacity):
    assert main(["bundle", "somewhere", "-o", str(tmp_path / "bundle"), f"--capacity={capacity}"]) == 2
    (line,) = sentences(capsys)
    assert line == (
        f"pointsman-export: argument --capacity: '{capacity}' is not reference, none, or a number from 1; "
        "see pointsman-export bundle --help"
    )


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ([], "the following arguments are required: COMMAND; see pointsman-export --help"),
        (["bundle", "c"], "the following arguments are required: -o/--output; see pointsman-export bundle --help"),
        (["refit", "b"], "the following arguments are required: --from; see pointsman-export refit --help"),
        (["bundle", "c", "-o", "b", "--form", "round"], "argument --form: invalid choice: 'round' (*"),
        (["bundle", "c", "-o", "b", "--max-tokens", "many"], "argument --max-tokens: invalid int value: 'many'; see *"),
        (["engines", "b", "--heavy"], "--heavy is no option; see pointsman-export engines --help"),
        (
            ["bundle", "c", "--dtyp", "x"],
            "--dtyp is no option (did you mean --dtype?); see pointsman-export bundle --help",
        ),
        (["bundel", "c"], "'bundel' is no command (did you mean bundle?); see pointsman-export --help"),
    ],
)
def test_a_command_line_that_cannot_be_meant(capsys, line, sentence):
    assert main(line) == 2
    assert fits(*sentences(capsys), f"pointsman-export: {sentence}")


def test_which_release_this_is(capsys):
    with pytest.raises(SystemExit) as raised:
        main(["--version"])
    assert raised.value.code == 0
    assert capsys.readouterr().out == f"pointsman-export {version('pointsman')}\n"


@pytest.mark.parametrize("tokens", [1, 0, -7])
def test_a_limit_that_admits_no_text(checkpoint, tmp_path, capsys, tokens):
    assert main(["bundle", str(checkpoint), "-o", str(tmp_path / "bundle"), "--max-tokens", str(tokens)]) == 2
    assert sentences(capsys) == [
        f"pointsman-export: --max-tokens {tokens} has no room for a token and an end; use 2 or more"
    ]
    assert names_in(tmp_path) == set()


def test_a_checkpoint_error_is_a_value_error():
    """As its own tree says; callers without ours can catch it."""
    with pytest.raises(ValueError, match="there is no folder") as raised:
        export_bundle("/no/such/place", "/nowhere/bundle")
    assert isinstance(raised.value, CheckpointError)

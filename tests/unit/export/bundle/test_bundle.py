"""What a bundle is made of, and what may lie where it is to go."""

from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file, save_file
from spoiling import WEIGHTS, in_config, names_in, sentences

from checkpoints import CHECKPOINTS, write_checkpoint, write_tokenizer
from mounts import mounted
from pointsman.bundle import read_manifest, verify_files
from pointsman.errors import OutputExistsError, ParityError
from pointsman_export.bundle import export_bundle
from pointsman_export.cli.main import main
from pointsman_export.verify import parity
from said import fits


def test_both_forms_in_one_bundle_share_their_weights(checkpoint, tmp_path):
    target = tmp_path / "deep" / "er" / "bundle"
    manifest = export_bundle(checkpoint, target, max_tokens=77, capacity=5)
    assert manifest == read_manifest(target)
    assert list(manifest.variants) == ["fused-float32", "portable-float32"]
    assert {variant.capacity for variant in manifest.variants.values()} == {5}
    assert manifest.limits.tokens == 77
    assert manifest.extra_ids == 20
    assert manifest.architecture == CHECKPOINTS["tied"].architecture
    assert manifest.source.name == checkpoint.name
    assert names_in(target.parent) == {"bundle"}
    listed = {record.path for record in manifest.files()} | {"manifest.json"}
    assert listed == {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert sum(path.endswith("weights.bin") for path in listed) == 1
    verify_files(target, tuple(manifest.files()))


@pytest.mark.parametrize(("asked", "found"), [("reference", 64), ("none", None), (2, 2)])
def test_capacity(exports, asked, found):
    (variant,) = exports("tied", "fused", capacity=asked).manifest.variants.values()
    assert variant.capacity == found


def test_an_existing_output_is_refused_and_left_alone(checkpoint, tmp_path):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine").touch()
    with pytest.raises(OutputExistsError):
        export_bundle(checkpoint, tmp_path / "bundle")
    assert names_in(tmp_path / "bundle") == {"mine"}


def a_bundle(folder: Path) -> None:
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    (folder / "old").touch()


@pytest.mark.parametrize("prepare", [a_bundle, Path.mkdir], ids=["bundle", "empty folder"])
def test_force_replaces_a_bundle_and_an_empty_folder(export, checkpoint, tmp_path, prepare):
    target = tmp_path / "bundle"
    prepare(target)
    export(checkpoint, target, force=True)
    assert names_in(target) == {"manifest.json", "tokenizer", "variants"}
    assert names_in(tmp_path) == {"bundle"}


def test_force_keeps_the_old_bundle_when_the_new_one_fails(export, checkpoint, tmp_path):
    target = tmp_path / "bundle"
    a_bundle(target)
    with patch.dict(parity.TOLERANCES, float32=0.0), pytest.raises(ParityError):
        export(checkpoint, target, force=True)
    assert names_in(target) == {"manifest.json", "old"}
    assert names_in(tmp_path) == {"bundle"}


NEITHER = (
    "{target} exists and is neither a bundle nor an empty folder, and --force replaces nothing else; choose another *"
)
TOGETHER = "{target} is, holds or lies in the checkpoint's folder; choose another output folder"
OTHERS = {
    "the checkpoint": ("models/checkpoint", NEITHER),
    "its parent": ("models", NEITHER),
    "a file": ("models/checkpoint/config.json", NEITHER),
    "a link to the checkpoint": ("link", NEITHER),
    "inside the checkpoint": ("models/checkpoint/bundle", TOGETHER),
    "inside it by a link": ("link/bundle", TOGETHER),
    "a checkpoint in a bundle": ("models/bundle", TOGETHER),
}


@pytest.mark.parametrize(("output", "sentence"), OTHERS.values(), ids=OTHERS.keys())
def test_force_replaces_nothing_else(tmp_path, capsys, output, sentence):
    folder, target = tmp_path / "models" / "checkpoint", tmp_path / output
    if output == "models/bundle":
        target.mkdir(parents=True)
        (target / "manifest.json").touch()
        folder = target / "checkpoint"
    write_checkpoint(folder, CHECKPOINTS["tied"], tokenizer=True)
    (tmp_path / "link").symlink_to(folder)
    before = sorted(tmp_path.rglob("*"))
    assert main(["bundle", str(folder), "-o", str(target), "--force"]) == 2
    (line,) = sentences(capsys)
    assert fits(line, f"pointsman-export: {sentence.format(target=target)}"), line
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_disk_is_filled_without_being_asked_twice(export, checkpoint, tmp_path):
    """It is always there, so `--force` would say nothing."""
    target = tmp_path / "disk"
    target.mkdir()
    with mounted(target):
        (target / "lost+found").mkdir()
        manifest = export(checkpoint, target)
        assert names_in(target) == {"lost+found", "manifest.json", "tokenizer", "variants"}
        verify_files(target, tuple(manifest.files()))
        with pytest.raises(OutputExistsError):
            export(checkpoint, target)
        assert export(checkpoint, target, force=True).variants == manifest.variants


@pytest.mark.parametrize("output", ["disk/bundle", "disk/deep/bundle"])
def test_a_read_only_disk_is_refused_before_the_checkpoint_is_opened(tmp_path, capsys, output):
    (tmp_path / "disk").mkdir()
    with mounted(tmp_path / "disk", "ro"):
        assert main(["bundle", str(tmp_path / "no-checkpoint"), "-o", str(tmp_path / output)]) == 2
    assert sentences(capsys) == [
        f"pointsman-export: cannot write {tmp_path / output} (Read-only file system); choose another output folder"
    ]


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(checkpoint, tmp_path, capsys):
    (tmp_path / "disk").mkdir()
    target = tmp_path / "disk" / "bundle"
    with mounted(tmp_path / "disk", "size=64k"):
        assert main(["bundle", str(checkpoint), "-o", str(target)]) == 2
        assert names_in(tmp_path / "disk") == set()
    (line,) = sentences(capsys)
    assert fits(line, f"pointsman-export: {target} needs * MB and its disk has 0.1 MB free; free some space or *")


@pytest.mark.parametrize("there", [True, False], ids=["to a bundle", "to nothing"])
def test_a_link_stays_and_leads_to_the_bundle(export, checkpoint, tmp_path, there):
    if there:
        a_bundle(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    export(checkpoint, tmp_path / "link", force=there)
    assert names_in(tmp_path) == {"link", "real"}
    assert (tmp_path / "link").is_symlink()
    assert names_in(tmp_path / "real") == {"manifest.json", "tokenizer", "variants"}


def test_the_folder_that_one_stands_in(export, checkpoint, tmp_path, monkeypatch):
    (tmp_path / "bundle").mkdir()
    monkeypatch.chdir(tmp_path / "bundle")
    export(checkpoint, ".", force=True)
    assert names_in(tmp_path) == {"bundle"}
    assert names_in(tmp_path / "bundle") == {"manifest.json", "tokenizer", "variants"}


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize(("name", "reason"), [("n" * 300, "File name too long"), ("n" * 240, "File name too long")])
def test_a_name_that_is_too_long(checkpoint, tmp_path, capsys, name, reason, force):
    target = tmp_path / name
    assert main(["bundle", str(checkpoint), "-o", str(target), *force]) == 2
    assert fits(*sentences(capsys), f"pointsman-export: cannot write {target} ({reason}); choose another output folder")
    assert names_in(tmp_path) == set()


def test_a_config_that_contradicts_the_weights_is_noted_and_recorded(export, tmp_path, capsys):
    folder = write_checkpoint(tmp_path / "checkpoint", CHECKPOINTS["tied"])
    write_tokenizer(folder)
    in_config(num_decoder_layers=12)(folder)
    manifest = export(folder, tmp_path / "bundle")
    sentence = "config.json says num_decoder_layers is 12, and the weights have 4."
    assert sentence in manifest.source.disagreements
    assert f"note: {sentence}" in capsys.readouterr().err


def with_extra(folder: Path, *names: str) -> Path:
    write_checkpoint(folder, CHECKPOINTS["tied"], tokenizer=True)
    extra = {name: torch.zeros(2, dtype=torch.int64) for name in names}
    save_file(load_file(folder / WEIGHTS) | extra, folder / WEIGHTS)
    return folder


def test_what_is_known_to_be_unneeded_is_noted_and_recorded(export, tmp_path, capsys):
    extra = tuple(f"optimizer.{n}" for n in range(6))
    assert export(with_extra(tmp_path / "checkpoint", *extra), tmp_path / "bundle").source.unused == extra
    names = "optimizer.0, optimizer.1, optimizer.2, optimizer.3 and 2 more"
    assert f"note: the model does not need these tensors (6): {names}\n" in capsys.readouterr().err


def test_what_is_not_used_stops_the_export_unless_it_is_ignored(tmp_path, capsys):
    folder = with_extra(tmp_path / "checkpoint", "position_ids", "pooler.weight", "pooler.bias")
    arguments = ["bundle", str(folder), "-o", str(tmp_path / "bundle"), "--form", "fused"]
    assert main(arguments) == 2
    (line,) = sentences(capsys)
    assert line == (
        "pointsman-export: the checkpoint has tensors that no Switch Transformer has (2): pooler.bias, pooler.weight; "
        "export the model that they were added to, or leave them out with --ignore-unused"
    )
    assert names_in(tmp_path) == {"checkpoint"}
    assert main([*arguments, "--ignore-unused"]) == 0
    assert "note: these tensors were left out (2): pooler.bias, pooler.weight\n" in capsys.readouterr().err
    assert read_manifest(tmp_path / "bundle").source.unused == ("pooler.bias", "pooler.weight", "position_ids")


def test_what_no_processor_runs_is_to_be_quantized_first(checkpoint, tmp_path, capsys):
    bundle = tmp_path / "bundle"
    assert main(["bundle", str(checkpoint), "-o", str(bundle), "--form", "fused", "--dtype", "bfloat16"]) == 0
    *_, said = capsys.readouterr().out.splitlines()
    assert said == f"it needs a GPU; for a CPU, quantize it: pointsman-calib quantize {bundle} --scheme int8"


def test_done_exits_with_0_and_says_what_was_written(checkpoint, tmp_path, capsys):
    assert main(["bundle", str(checkpoint), "-o", str(tmp_path / "bundle"), "--form", "fused"]) == 0
    output = capsys.readouterr().out.splitlines()
    assert fits(output[0], "fused-float32: * MB, parity *e-0* of *e-0* allowed, worst at *")
    assert output[1:] == [
        f"wrote {tmp_path / 'bundle'}",
        f"fill with it: pointsman infill {tmp_path / 'bundle'} 'The <extra_id_0> walks in <extra_id_1> park.'",
    ]

"""A bundle appears whole or not at all, and every mistake is answered with one line that says what to do."""

import errno
import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoints import CHECKPOINTS, write_checkpoint, write_tokenizer
from mounts import mounted
from pointsman.bundle import read_manifest, verify_files
from pointsman.errors import CheckpointError, OutputError, OutputExistsError, ParityError
from pointsman_export import bundle
from pointsman_export.bundle import export_bundle
from pointsman_export.cli.main import main
from pointsman_export.verify import parity as verify

COMMAND = str(Path(sys.executable).with_name("pointsman-export"))
WEIGHTS, INDEX, SHARD = "model.safetensors", "model.safetensors.index.json", "model-00002-of-00003.safetensors"
WI = "decoder.block.1.layer.2.mlp.experts.expert_3.wi.weight"


@pytest.fixture(autouse=True)
def _undisturbed():
    """The command sets a handler for SIGTERM, and two threads only wait for each other here."""
    before, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    signal.signal(signal.SIGTERM, before)
    torch.set_num_threads(threads)


@pytest.fixture
def export(exports):
    """`export_bundle` of the fused form, tracing an architecture once for all tests."""

    def export(source: Path, target: Path, **options):
        with exports.traced_once():
            return export_bundle(source, target, **{"forms": ["fused"]} | options)

    return export


@pytest.fixture(scope="module")
def checkpoint(exports) -> Path:
    return exports.checkpoint("tied")


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def run(*arguments: object, **options) -> subprocess.CompletedProcess:
    return subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, **options)


# What a bundle is made of


def test_both_forms_in_one_bundle_share_their_weights(exports, checkpoint, tmp_path):
    target = tmp_path / "deep" / "er" / "bundle"
    with exports.traced_once():
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


# What is there already


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
    with patch.dict(verify.TOLERANCES, float32=0.0), pytest.raises(ParityError):
        export(checkpoint, target, force=True)
    assert names_in(target) == {"manifest.json", "old"}
    assert names_in(tmp_path) == {"bundle"}


NEITHER = "{target} is neither a bundle nor an empty folder, and --force replaces nothing else; choose another *"
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
    with patch.object(bundle, "derive_from", side_effect=AssertionError("nothing is to be done")):
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
def test_a_read_only_disk_is_refused_before_the_checkpoint_is_opened(checkpoint, tmp_path, capsys, output):
    (tmp_path / "disk").mkdir()
    with mounted(tmp_path / "disk", "ro"):
        assert main(["bundle", str(tmp_path / "no-checkpoint"), "-o", str(tmp_path / output)]) == 2
    assert sentences(capsys) == [
        f"pointsman-export: cannot write {tmp_path / output} (Read-only file system); choose another output folder"
    ]


def test_a_disk_that_is_too_small_is_refused_before_anything_is_traced(checkpoint, tmp_path, capsys):
    (tmp_path / "disk").mkdir()
    target = tmp_path / "disk" / "bundle"
    with mounted(tmp_path / "disk", "size=64k"):
        with patch.object(bundle, "encoder_graph", side_effect=AssertionError("nothing is to be traced")):
            assert main(["bundle", str(checkpoint), "-o", str(target)]) == 2
        assert names_in(tmp_path / "disk") == set()
    (line,) = sentences(capsys)
    assert fits(line, f"pointsman-export: {target} needs * MB and its disk has 0.1 MB free; free some space or *")


# Links and dots


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


# Failures in the middle


@pytest.mark.parametrize("stage", ["_copy_vocabulary", "encoder_graph", "verify", "write_manifest", "_source"])
def test_a_full_disk_at_any_stage_leaves_nothing(export, checkpoint, tmp_path, stage):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (
        patch.object(bundle, "decoder_graph", bundle.encoder_graph) if stage == "encoder_graph" else _nothing(),
        patch.object(bundle, stage, side_effect=full),
        pytest.raises(OutputError) as raised,
    ):
        # Not through the fixture where it would replace the function that is to fail.
        (export_bundle if stage == "encoder_graph" else export)(checkpoint, tmp_path / "bundle", forms=["fused"])
    assert str(raised.value) == (
        f"cannot write {tmp_path / 'bundle'} (No space left on device); free some space or choose another output folder"
    )
    assert names_in(tmp_path) == set()


@contextmanager
def _nothing():
    yield


def test_a_file_that_may_not_grow(checkpoint, tmp_path):
    """The kernel itself refuses, as on a full disk: half of the weights fit."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, 1 << 18))

    done = run("bundle", checkpoint, "-o", tmp_path / "bundle", preexec_fn=limit)
    assert done.returncode == 2
    assert done.stderr == (
        "pointsman-export: cannot write weights.bin (File too large); free some space or choose another output folder\n"
    )
    assert names_in(tmp_path) == set()


def test_a_parity_failure_exits_with_1_and_leaves_nothing(exports, checkpoint, tmp_path, capsys):
    with exports.traced_once(), patch.dict(verify.TOLERANCES, float32=0.0):
        assert main(["bundle", str(checkpoint), "-o", str(tmp_path / "bundle"), "--form", "fused"]) == 1
    (line,) = sentences(capsys)
    assert line.startswith(
        "pointsman-export: the exported fused float32 graphs do not compute what the checkpoint does"
    )
    assert names_in(tmp_path) == set()


def test_values_past_float16_are_named_and_leave_nothing(exports, tmp_path, capsys):
    """The weights fit, and what they make of a text does not."""
    folder = write_checkpoint(tmp_path / "checkpoint", CHECKPOINTS["tied"], tokenizer=True)
    change(**{"encoder.block.0.layer.0.SelfAttention.v.weight": lambda tensor: tensor * 2e4})(folder)
    arguments = ["bundle", str(folder), "-o", str(tmp_path / "bundle"), "--form", "fused", "--dtype", "float16"]
    with exports.traced_once():
        assert main(arguments) == 1
    assert fits(
        *sentences(capsys),
        "pointsman-export: encoder.block.* is past float16's range in the exported fused graphs; "
        "nothing was written, export with --dtype float32 or bfloat16*",
    )
    assert names_in(tmp_path) == {"checkpoint"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_kill_leaves_nothing(checkpoint, tmp_path, number):
    process = halfway(checkpoint, tmp_path)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "pointsman-export: interrupted; nothing was written"
    assert names_in(tmp_path) == set()


def test_what_a_killed_export_left_is_removed_by_the_next(export, checkpoint, tmp_path):
    process = halfway(checkpoint, tmp_path)
    process.kill()
    process.communicate(timeout=120)
    (left,) = names_in(tmp_path)
    assert left.startswith(".bundle.partial-")
    (tmp_path / ".bundle.partial-alive").mkdir()
    (tmp_path / ".other.partial-1").mkdir()
    lock = os.open(tmp_path / ".bundle.partial-alive", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    export(checkpoint, tmp_path / "bundle")
    os.close(lock)
    others = {".bundle.partial-alive", ".other.partial-1"}
    assert names_in(tmp_path) == {"bundle"} | others, "only what is dead and of this target goes"
    verify_files(tmp_path / "bundle", tuple(read_manifest(tmp_path / "bundle").files()))


@pytest.mark.parametrize("kind", ["partial", "replaced"])
def test_what_a_killed_process_of_the_same_number_left_is_removed_too(export, checkpoint, tmp_path, kind):
    """In a container every process has the same; and a kill between two renames leaves the old bundle elsewhere."""
    (tmp_path / f".bundle.{kind}-{os.getpid()}").mkdir()
    export(checkpoint, tmp_path / "bundle")
    assert names_in(tmp_path) == {"bundle"}


def halfway(checkpoint: Path, folder: Path) -> subprocess.Popen:
    """An export that has written its weights and is tracing."""
    process = subprocess.Popen(
        [COMMAND, "bundle", str(checkpoint), "-o", str(folder / "bundle"), "--form", "fused"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(1200):
        weights = next(folder.glob(".bundle.partial-*/variants/float32/weights.bin"), None)
        if weights and weights.stat().st_size:
            time.sleep(1)
            break
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    return process


# Every mistake, and the line that answers it


def change(**tensors: Callable[[torch.Tensor], torch.Tensor] | None):
    """Replace or remove tensors of the single weight file."""

    def break_it(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        for name, new in tensors.items():
            state.pop(name) if new is None else state.update({name: new(state[name]).contiguous()})
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})

    return break_it


def without_expert(folder: Path) -> None:
    prefix = WI.removesuffix("wi.weight")
    change(**{f"{prefix}{name}.weight": None for name in ("wi", "wo")})(folder)


def truncate(name: str):
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size * 9 // 10)


def in_config(**values):
    def break_it(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))

    return break_it


def added_tokens(tokens):
    def add_them(folder: Path) -> None:
        (folder / "added_tokens.json").write_text(json.dumps(tokens))

    return add_them


def with_nan(tensor: torch.Tensor) -> torch.Tensor:
    spoilt = tensor.clone()
    spoilt[3, 4] = torch.nan
    return spoilt


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
        "{folder} has no vocabulary (spiece.model); say where one is with --tokenizer: *",
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


def sentences(capsys) -> list[str]:
    """Lines on stderr, but for notes and progress."""
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    return [line for line in lines if line and not line.startswith("note: ") and "%|" not in line]


def fits(line: str, pattern: str) -> bool:
    """Whether a line is the pattern, whose stars stand for anything."""
    first, *rest = pattern.split("*")
    if not rest:
        return line == first
    place = len(first) if line.startswith(first) else -1
    for part in rest:
        place = line.find(part, place) + len(part) if place >= 0 and line.find(part, place) >= 0 else -1
    return place >= 0


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


def test_an_output_inside_a_file(checkpoint, tmp_path, capsys):
    (tmp_path / "file").touch()
    target = tmp_path / "file" / "bundle"
    assert main(["bundle", str(checkpoint), "-o", str(target)]) == 2
    assert fits(*sentences(capsys), f"pointsman-export: cannot write {target} (*); choose another output folder")


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


def test_what_is_not_used_stops_the_export_unless_it_is_ignored(exports, tmp_path, capsys):
    folder = with_extra(tmp_path / "checkpoint", "position_ids", "pooler.weight", "pooler.bias")
    arguments = ["bundle", str(folder), "-o", str(tmp_path / "bundle"), "--form", "fused"]
    assert main(arguments) == 2
    (line,) = sentences(capsys)
    assert line == (
        "pointsman-export: the checkpoint has tensors that no Switch Transformer has (2): pooler.bias, pooler.weight; "
        "export the model that they were added to, or leave them out with --ignore-unused"
    )
    assert names_in(tmp_path) == {"checkpoint"}
    with exports.traced_once():
        assert main([*arguments, "--ignore-unused"]) == 0
    assert "note: these tensors were left out (2): pooler.bias, pooler.weight\n" in capsys.readouterr().err
    assert read_manifest(tmp_path / "bundle").source.unused == ("pooler.bias", "pooler.weight", "position_ids")


def test_done_exits_with_0_and_says_what_was_written(exports, checkpoint, tmp_path, capsys):
    with exports.traced_once():
        assert main(["bundle", str(checkpoint), "-o", str(tmp_path / "bundle"), "--form", "fused"]) == 0
    output = capsys.readouterr().out.splitlines()
    assert fits(output[0], "fused-float32: * MB, parity *e-0* at *")
    assert output[1:] == [f"wrote {tmp_path / 'bundle'}"]


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
        (["engines", "b", "--heavy"], "unrecognized arguments: --heavy; see pointsman-export --help"),
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
        f"pointsman-export: max_tokens {tokens} has no room for a token and an end; use 2 or more"
    ]
    assert names_in(tmp_path) == set()


def test_a_checkpoint_error_is_a_value_error():
    """As its own tree says; callers without ours can catch it."""
    with pytest.raises(ValueError, match="there is no folder") as raised:
        export_bundle("/no/such/place", "/nowhere/bundle")
    assert isinstance(raised.value, CheckpointError)

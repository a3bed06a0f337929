"""The commands of docs/checkpoints.md, run as they stand there on checkpoints of the kinds that they are about."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoints import CHECKPOINTS, write_checkpoint
from conftest import installed
from places import ROOT
from pointsman.bundle import read_manifest
from t5x_checkpoints import SPIECE, unpack

PAGE = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
SECTIONS = {section.partition("\n")[0]: section for section in PAGE.split("\n## ")[1:]}
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAM = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = {title: "".join(BLOCK.findall(section)).splitlines() for title, section in SECTIONS.items()}


def run(folder: Path, command: str) -> subprocess.CompletedProcess:
    program, *arguments = shlex.split(command)
    done = subprocess.run([installed(program), *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_which_sections_have_commands():
    counts = {section: len(commands) for section, commands in COMMANDS.items() if commands}
    assert counts == {
        "T5X originals": 1,
        "Names": 1,
        "Fine-tuned checkpoints": 2,
        "Generation settings": 4,
        "What is checked": 1,
    }


@pytest.mark.parametrize("command", COMMANDS["T5X originals"])
def test_t5x(tmp_path, command):
    original = unpack("relu_tied", tmp_path / "unpacked")
    shutil.move(original.folder, tmp_path)
    shutil.copyfile(SPIECE, tmp_path / "spiece.model")
    done = run(tmp_path, command)
    assert "note: T5X has no capacity for a sequence: experts accept every token (capacity none)\n" in done.stderr
    run(tmp_path, "pointsman infill switch 'The <extra_id_0> walks.'")


def test_names(tmp_path):
    folder = write_checkpoint(tmp_path / "with-a-pooler", CHECKPOINTS["tied"], tokenizer=True)
    weights = folder / "model.safetensors"
    save_file(load_file(weights) | {"pooler.weight": torch.zeros(3)}, weights)
    for command in COMMANDS["Names"]:
        run(tmp_path, command)
    assert read_manifest(tmp_path / "bundles" / "without").source.unused == ("pooler.weight",)


def test_adapters(tmp_path):
    write_checkpoint(tmp_path / "switch-base", CHECKPOINTS["tied"], tokenizer=True)
    adapter = tmp_path / "my-adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "switch-base"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    module = "base_model.model.encoder.block.0.layer.0.SelfAttention.q"
    product = {f"{module}.lora_A.weight": torch.rand(2, 32), f"{module}.lora_B.weight": torch.rand(32, 2)}
    save_file(product, adapter / "adapter_model.safetensors")
    for command in COMMANDS["Fine-tuned checkpoints"]:
        run(tmp_path, command)
    first, second = (read_manifest(tmp_path / "bundles" / name) for name in ("adapted", "adapted-to"))
    assert first == second
    assert first.source.name == "my-adapter on switch-base"


def test_generation_settings(tmp_path):
    for name, said in {"summarizer": {"num_beams": 3, "max_length": 20}, "strange": {"typical_p": 0.5}}.items():
        folder = write_checkpoint(tmp_path / name, CHECKPOINTS["tied"], tokenizer=True)
        (folder / "generation_config.json").write_text(json.dumps(said))
    outputs = [run(tmp_path, command).stdout for command in COMMANDS["Generation settings"]]
    assert "as generation_config.json says: max_new_tokens 19, num_beams 3\n" in outputs[1]
    assert read_manifest(tmp_path / "bundles" / "strange").generation is None


def test_what_is_checked(tmp_path):
    """The program prints the hash that the command has put into the manifest."""
    write_checkpoint(tmp_path / "switch-base", CHECKPOINTS["tied"], tokenizer=True)
    for command in COMMANDS["What is checked"]:
        run(tmp_path, command)
    manifest = read_manifest(tmp_path / "bundles" / "verified")
    assert all(
        variant.parity.reference.endswith(", all 8 experts of each layer") for variant in manifest.variants.values()
    )
    (program,) = PROGRAM.findall(SECTIONS["What is checked"])
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == manifest.source.sha256

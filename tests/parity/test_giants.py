"""Checkpoints built as switch-xxl-128 and switch-c-2048 were published, at a small size, against a plain NumPy model.

Their `.bin` shards hold bfloat16 views of transposed storage, there is no embedding but `shared.weight`, the head is
called `decoder.lm_head.weight`, and the config does not say that it is not tied.
"""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from checkpoints import Spec, weights, write_tensors, write_tokenizer
from parity.numpy_reference import NumpySwitch
from pointsman.bundle import names
from pointsman.model import SwitchModel
from pointsman_export.cli.main import main
from tolerances import LOGITS, NEAR_TIE

GIANTS = {
    "xxl-128": Spec(gated=True, tied=False, layout="bin-sharded", precision="bfloat16", num_experts=16, seed=31),
    "c-2048": Spec(
        encoder_layers=3,
        decoder_layers=3,
        encoder_step=1,
        decoder_step=1,
        tied=False,
        layout="bin-sharded",
        precision="bfloat16",
        num_experts=20,
        seed=32,
    ),
}
RNG = np.random.default_rng(5)
SOURCES = [RNG.integers(2, 128, size).tolist() for size in (5, 17)]
TARGETS = [[0, *RNG.integers(2, 128, 7).tolist()] for _ in SOURCES]


def published(folder, spec):
    tensors = {name: tensor.T.contiguous().T if tensor.dim() == 2 else tensor for name, tensor in weights(spec).items()}
    tensors[names.PUBLISHED_HEAD] = tensors.pop(names.HEAD)
    write_tensors(folder, tensors, spec.layout)
    said = {key: value for key, value in spec.config.items() if key != "tie_word_embeddings"}
    (folder / "config.json").write_text(json.dumps(said))
    write_tokenizer(folder)
    return str(folder)


def lose_the_head(folder):
    """From its shard and from the map of tensors."""
    index = next(folder.glob("*.index.json"))
    document = json.loads(index.read_text())
    shard = folder / document["weight_map"].pop(names.PUBLISHED_HEAD)
    tensors = torch.load(shard)
    del tensors[names.PUBLISHED_HEAD]
    torch.save(tensors, shard)
    index.write_text(json.dumps(document))


@pytest.mark.parametrize("name", GIANTS)
def test_logits(tmp_path, name):
    spec, bundle = GIANTS[name], tmp_path / "bundle"
    assert main(["bundle", published(tmp_path / "checkpoint", spec), "-o", str(bundle)]) == 0
    plain = NumpySwitch(
        spec.architecture, {name: value.float().numpy() for name, value in weights(spec).items()}, spec.expert_capacity
    )
    for form in ("fused", "portable"):
        model = SwitchModel.load(bundle, device="cpu", variant=f"{form}-float32")
        got = model.encode(SOURCES, rows=len(SOURCES)).step(np.array(TARGETS), np.arange(len(SOURCES)))
        for source, target, row in zip(SOURCES, TARGETS, got, strict=True):
            LOGITS.check(row, plain.decode(plain.encode(source), target), f"{name}, {form}")
    assert plain.narrowest_choice > NEAR_TIE.bound


@pytest.mark.parametrize("name", GIANTS)
def test_without_the_head(tmp_path, capsys, name):
    checkpoint = published(tmp_path / "checkpoint", GIANTS[name])
    lose_the_head(tmp_path / "checkpoint")
    assert main(["bundle", checkpoint, "-o", str(tmp_path / "bundle")]) == 2
    assert re.search(r"counts [\d,]+ bytes of tensors and names [\d,]+: some are missing", capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_gated_networks_without_a_head_in_one_file(tmp_path, capsys):
    """Nothing counts its tensors; but no published model of that kind takes its embedding for a head."""
    spec = replace(GIANTS["xxl-128"], layout="safetensors", tied=True)
    checkpoint = published_tied(tmp_path / "checkpoint", spec)
    assert main(["bundle", checkpoint, "-o", str(tmp_path / "bundle")]) == 2
    assert "has no head (lm_head.weight or decoder.lm_head.weight), and config.json does not" in capsys.readouterr().err
    (tmp_path / "checkpoint" / "config.json").write_text(json.dumps(spec.config))
    assert main(["bundle", checkpoint, "-o", str(tmp_path / "bundle")]) == 0


def published_tied(folder, spec):
    write_tensors(folder, weights(spec), spec.layout)
    said = {key: value for key, value in spec.config.items() if key != "tie_word_embeddings"}
    (folder / "config.json").write_text(json.dumps(said))
    write_tokenizer(folder)
    return str(folder)

"""A fingerprint is a model's: of the numbers that were read, whatever files they lay in."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from digests import digest

from checkpoints import CHECKPOINTS, write_checkpoint
from pointsman_export.bundle import export_bundle
from pointsman_export.checkpoint import Checkpoint, Fingerprinted

SPEC = CHECKPOINTS["tied"]
LAYOUTS = ("safetensors", "safetensors-sharded", "bin", "bin-sharded")


class Two:
    """A checkpoint of two tensors."""

    def read(self, name):
        return {"b": np.arange(6, dtype="<f4").reshape(2, 3), "a": np.ones(1, "<f2")}[name]


def test_it_is_the_hash_of_a_line_for_each_tensor_by_name():
    reader = Fingerprinted(Two())
    for name in "ba":
        reader.read(name)
    lines = (
        f"{hashlib.sha256(np.ones(1, '<f2').tobytes()).hexdigest()}  a float16 1\n"
        f"{hashlib.sha256(np.arange(6, dtype='<f4').tobytes()).hexdigest()}  b float32 2x3\n"
    )
    assert reader.sha256 == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_a_model_has_the_same(tmp_path, layout):
    one = Checkpoint.open(write_checkpoint(tmp_path / "one", SPEC))
    assert digest(one) == digest(Checkpoint.open(write_checkpoint(tmp_path / "other", SPEC, layout=layout)))


def test_other_numbers_and_other_dtypes_have_others(tmp_path):
    folders = {
        "one": write_checkpoint(tmp_path / "one", SPEC),
        "other": write_checkpoint(tmp_path / "other", SPEC, seed=1),
        "narrower": write_checkpoint(tmp_path / "narrower", replace(SPEC, precision="bfloat16")),
    }
    assert len({digest(Checkpoint.open(folder)) for folder in folders.values()}) == len(folders)


def test_a_bundle_tells_its_checkpoints(tmp_path):
    """Every tensor that the model needs, which in this checkpoint are all that there are."""
    folder = write_checkpoint(tmp_path / "checkpoint", SPEC, tokenizer=True)
    manifest = export_bundle(folder, tmp_path / "bundle", forms=["fused"])
    assert manifest.source.sha256 == digest(Checkpoint.open(folder))

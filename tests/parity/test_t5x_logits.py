"""Checkpoints that T5X wrote, against the logits that flaxformer's forward pass gave for them."""

from pathlib import Path

import numpy as np
import pytest

from exports import FORMS
from parity.numpy_reference import NumpySwitch, softmax
from pointsman.bundle import read_manifest
from pointsman.cli.main import main as pointsman
from pointsman.model import SwitchModel
from pointsman_export.architecture import derive_from
from pointsman_export.bundle import export_bundle
from pointsman_export.checkpoint import Checkpoint
from t5x_checkpoints import SPIECE, Original, unpack
from tolerances import LOGITS, NEAR_TIE

NAMES = ("relu_tied", "gated_untied")


class MaskedStart(NumpySwitch):
    """flaxformer's masks where the start token counts as padding; see tests/data/t5x/README.md.

    No position attends to the first. What the first may attend to, nothing, is a softmax of equal numbers.
    """

    def attend(self, hidden, keys, values, bias, name):
        scores = self.heads(hidden, f"{name}.q") @ keys.swapaxes(1, 2) + bias
        if name.startswith("decoder"):
            if name.endswith("SelfAttention"):
                scores[:, 1:, 0] = -np.inf
            scores[:, 0] = 0.0
        attended = (softmax(scores) @ values).swapaxes(0, 1).reshape(len(hidden), -1)
        return attended @ self.weights[f"{name}.o.weight"].T


@pytest.fixture(scope="module", params=NAMES)
def original(request, tmp_path_factory) -> Original:
    return unpack(request.param, tmp_path_factory.mktemp("t5x originals"))  # a path with a space in it


def reference(original: Original, kind: type[NumpySwitch]) -> NumpySwitch:
    with Checkpoint.open(original.folder) as checkpoint:
        derivation = derive_from(checkpoint)
        weights = {name: checkpoint.read(stored).astype(np.float64) for name, stored in derivation.names.items()}
    return kind(derivation.architecture, weights, None)


def test_logits_of_the_numpy_model(original):
    model = reference(original, MaskedStart)
    for source, target, logits in zip(original.encoder_ids, original.decoder_ids, original.logits, strict=True):
        LOGITS.check(model.decode(model.encode(source.tolist()), target.tolist()), logits, original.folder.parent.name)
    assert model.narrowest_choice > NEAR_TIE.bound


def test_from_the_second_position_on_they_are_those_of_a_decoder_that_starts_there(original):
    """So that they can be compared with graphs, which know no mask of the decoder's own positions."""
    model = reference(original, NumpySwitch)
    for source, target, logits in zip(original.encoder_ids, original.decoder_ids, original.logits, strict=True):
        LOGITS.check(model.decode(model.encode(source.tolist()), target[1:].tolist()), logits[1:])


@pytest.fixture(scope="module")
def bundle(original, exports, tmp_path_factory) -> Path:
    """Of both forms."""
    target = tmp_path_factory.mktemp("bundles") / "bundle"
    export_bundle(original.folder.parent, target, tokenizer=SPIECE)
    return target


@pytest.mark.parametrize("form", FORMS)
def test_logits_of_the_exported_graphs(original, bundle, form):
    model = SwitchModel.load(bundle, device="cpu", variant=f"{form}-float32", threads=1)
    state = model.encode(original.encoder_ids.tolist(), rows=2)
    got = state.step(original.decoder_ids[:, 1:].astype(np.int64), np.arange(2))
    LOGITS.check(got, original.logits[:, 1:], form)


def test_what_is_recorded(original, bundle, capsys):
    manifest = read_manifest(bundle)
    assert {variant.capacity for variant in manifest.variants.values()} == {None}
    assert manifest.architecture.expert_capacity is None
    assert manifest.source.disagreements == manifest.source.unused == ()
    assert (bundle / "tokenizer" / "spiece.model").read_bytes() == SPIECE.read_bytes()
    assert manifest.extra_ids == 100
    assert pointsman(["inspect", str(bundle)]) == 0
    shown = capsys.readouterr().out
    assert "4 experts in each sparse block" in shown
    assert shown.count("no capacity limit") == 2

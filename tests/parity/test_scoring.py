"""Log-probabilities of given targets against the plain NumPy model, whole and cut, and the memory that they take."""

import subprocess
import sys

import numpy as np
import pytest

from checkpoints import CHECKPOINTS, Spec, weights, write_checkpoint
from exports import FORMS
from parity.numpy_reference import NumpySwitch
from pointsman.decoding import teacher_forced
from pointsman_export.bundle import export_bundle
from tolerances import FORMS as BETWEEN_FORMS
from tolerances import LOGITS, NEAR_TIE

RNG = np.random.default_rng(4)
SOURCES = [RNG.integers(2, 128, size).tolist() for size in (3, 12)]
TARGETS = [RNG.integers(2, 128, size).tolist() for size in (9, 10, 4, 11)]
MEASURED = """
import re, sys
import numpy as np
from pointsman import SwitchModel
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) >> 10
model = SwitchModel.load(sys.argv[1], device="cpu", variant="portable-float32", threads=1)
targets = np.random.default_rng(0).integers(2, 128, (12, int(sys.argv[2])))
model.score([[5, 6, 1]], targets[:1, :2])
before = peak()
model.score([[5, 6, 1]], targets)
print(peak() - before)
"""


def expected(name):
    """Log-probabilities of the targets, and how many tokens experts dropped."""
    spec = CHECKPOINTS[name]
    model = NumpySwitch(
        spec.architecture, {k: v.float().numpy() for k, v in weights(spec).items()}, spec.expert_capacity
    )
    scores = []
    for number, target in enumerate(TARGETS):
        encoded = model.encode(SOURCES[number // 2])
        before, logits = model.dropped, model.decode(encoded, [0, *target[:-1]])
        shifted = logits - logits.max(axis=1, keepdims=True)
        logprobs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        scores.append((logprobs[np.arange(len(target)), target], model.dropped - before))
    assert model.narrowest_choice > NEAR_TIE.bound, "the sample has a token with no clear expert; draw another"
    return scores


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["tied", "capacity-2"])
def test_scores_are_the_definitions_with_and_without_drops(exports, name, form):
    found = exports.model(name, form).score(SOURCES, TARGETS)
    wanted = expected(name)
    for ours, (theirs, _) in zip(found, wanted, strict=True):
        LOGITS.check(ours, theirs, f"{name}, {form}")
    assert any(dropped for _, dropped in wanted) == (name == "capacity-2")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("positions", [1, 3, 8])
def test_how_targets_are_cut_does_not_matter(exports, form, positions):
    model = exports.model("tied", form)
    targets = np.random.default_rng(1).integers(2, 128, (4, 64))  # as long as the capacity
    cut, whole = (
        teacher_forced(model.encode(SOURCES, rows=4), targets, 0, positions=count) for count in (positions, 64)
    )
    BETWEEN_FORMS.check(cut, whole, f"{form}, {positions} at a time")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_targets(tmp_path):
    """Each product of an expert has 4 MB here: fetched for each of 720 tokens at once, that would be 2.9 GB."""
    spec = Spec(d_model=128, d_ff=8192, num_experts=2, encoder_layers=2, decoder_layers=2, seed=3)
    checkpoint = write_checkpoint(tmp_path / "wide", spec, tokenizer=True)
    export_bundle(checkpoint, tmp_path / "bundle", forms=["portable"])
    grown = {}
    for tokens in (20, 60):
        command = [sys.executable, "-c", MEASURED, str(tmp_path / "bundle"), str(tokens)]
        grown[tokens] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert max(grown.values()) < 300, grown

"""A variant's runner for Polygraphy against the model that decodes with it."""

import itertools

import numpy as np
import pytest
from polygraphy.backend.base import BaseRunner

from pointsman.bundle import read_manifest
from pointsman.errors import BundleError, BundleNotFoundError
from pointsman.model import SwitchModel
from pointsman_calib.comparison.polygraphy_runner import TeacherForcingRunner, feeds
from tolerances import FORMS


@pytest.fixture(scope="module")
def architecture(quantized_bundle):
    return read_manifest(quantized_bundle).architecture


@pytest.fixture(scope="module")
def batch(architecture, corpus):
    return next(corpus.batches(architecture, 3))


def outputs(bundle, name, batches):
    with TeacherForcingRunner(bundle, name) as active:
        assert isinstance(active, BaseRunner)
        return [active.infer(feeds(batch)) for batch in batches]


@pytest.mark.parametrize("name", ["fused-float32", "fused-int8"])
def test_logits_are_those_of_the_model(quantized_bundle, batch, name, capfd):
    (given,) = outputs(quantized_bundle, name, [batch])
    assert capfd.readouterr().err == ""  # the engine does not tell of caches that it copies
    model = SwitchModel.load(quantized_bundle, device="cpu", variant=name, threads=1)
    sources = [row[mask.astype(bool)].tolist() for row, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]
    state = model.encode(sources, rows=len(sources))
    expected = state.step(batch.decoder_input_ids, np.arange(len(sources)))
    FORMS.check(given["logits"], expected[batch.label_mask], name)


def test_padding_is_left_out(quantized_bundle, architecture, batch, corpus):
    """Each document alone gives the rows that it has in the batch."""
    each = itertools.islice(corpus.batches(architecture, 1), 3)
    together, *alone = outputs(quantized_bundle, "fused-float32", [batch, *each])
    cross = [f"cross_{kind}.{layer}" for layer in range(4) for kind in ("key", "value")]
    assert list(together) == [*cross, "logits"]
    for name, value in together.items():
        FORMS.check(np.concatenate([given[name] for given in alone]), value, name)
    source, target = int(batch.attention_mask.sum()), int(batch.label_mask.sum())
    assert together["cross_key.0"].shape == (source, architecture.num_heads, architecture.d_kv)
    assert together["logits"].shape == (target, architecture.vocab_size)


def test_a_variant_that_is_not_there(quantized_bundle, tmp_path):
    with pytest.raises(BundleError, match="the bundle has no variant 'fused-int2'; it has fused-float32, fused-int8, "):
        TeacherForcingRunner(quantized_bundle, "fused-int2")
    with pytest.raises(BundleNotFoundError):
        TeacherForcingRunner(tmp_path, "fused-int8")

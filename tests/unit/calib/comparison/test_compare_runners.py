"""A variant's runner against the model that decodes with it."""

import itertools

import numpy as np
import pytest
from polygraphy.backend.base import BaseRunner

from pointsman.bundle import read_manifest
from pointsman.errors import BundleError
from pointsman.model import SwitchModel
from pointsman_calib.comparison.runners import TeacherForcingRunner
from pointsman_calib.comparison.teacher_forcing import feeds
from tolerances import FORMS


@pytest.fixture(scope="module")
def manifest(quantized_bundle):
    return read_manifest(quantized_bundle)


@pytest.fixture(scope="module")
def batch(manifest, corpus):
    return next(corpus.batches(manifest.architecture, 3))


def runner(bundle, manifest, name, **options):
    return TeacherForcingRunner(bundle, name, manifest.variants[name], manifest.architecture, **options)


def outputs(bundle, manifest, name, batch, **options):
    with runner(bundle, manifest, name, **options) as active:
        assert isinstance(active, BaseRunner)
        return active.infer(feeds(batch))


@pytest.mark.parametrize("name", ["fused-float32", "fused-int8"])
def test_logits_are_those_of_the_model(quantized_bundle, manifest, batch, name):
    given = outputs(quantized_bundle, manifest, name, batch)
    model = SwitchModel.load(quantized_bundle, device="cpu", variant=name, threads=1)
    sources = [row[mask.astype(bool)].tolist() for row, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]
    state = model.encode(sources, rows=len(sources))
    expected = state.step(batch.decoder_input_ids, np.arange(len(sources)))
    FORMS.check(given["logits"], expected[batch.label_mask], name)


def test_shapes_and_names(quantized_bundle, manifest, batch):
    given = outputs(quantized_bundle, manifest, "fused-float32", batch, layers=True)
    source, target = int(batch.attention_mask.sum()), int(batch.label_mask.sum())
    sizes = manifest.architecture
    assert given["logits"].shape == (target, sizes.vocab_size)
    assert given["cross_key.0"].shape == given["cross_value.3"].shape == (source, sizes.num_heads, sizes.d_kv)
    assert given["encoder.block.2"].shape == (source, sizes.d_model)
    assert given["decoder.block.0"].shape == (target, sizes.d_model)
    assert [name for name in given if name.endswith(".experts")] == [
        f"{side}.block.{number}.experts" for side in ("encoder", "decoder") for number in (1, 3)
    ]
    assert given["decoder.block.3.experts"].shape == (target,)
    assert all(count == 0 for name, count in given.items() if name.endswith(".non_finite"))


def test_layers_change_nothing_else(quantized_bundle, manifest, batch):
    plain = outputs(quantized_bundle, manifest, "fused-float32", batch)
    with_layers = outputs(quantized_bundle, manifest, "fused-float32", batch, layers=True)
    assert set(with_layers) - set(plain) == {f"{side}.block.{n}" for side in ("encoder", "decoder") for n in range(4)}
    FORMS.check(with_layers["logits"], plain["logits"])


def test_padding_is_left_out(quantized_bundle, manifest, batch, corpus):
    """Each document alone gives the rows that it has in the batch."""
    together = outputs(quantized_bundle, manifest, "fused-float32", batch)
    each = itertools.islice(corpus.batches(manifest.architecture, 1), 3)
    alone = [outputs(quantized_bundle, manifest, "fused-float32", one) for one in each]
    for name in ("cross_key.1", "cross_value.1", "logits", "encoder.block.1.experts"):
        FORMS.check(np.concatenate([given[name] for given in alone]), together[name], name)


def test_a_graph_that_the_engine_refuses(quantized_bundle, manifest, tmp_path):
    variant = manifest.variants["fused-float32"]
    place = tmp_path / variant.encoder.file
    place.parent.mkdir(parents=True)
    place.write_bytes((quantized_bundle / variant.encoder.file).read_bytes())  # without its weights
    with pytest.raises(BundleError, match=r"ONNX Runtime refuses fused\.encoder\.onnx: "):
        runner(tmp_path, manifest, "fused-float32").activate()

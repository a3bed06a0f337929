"""Embeddings that only one stack looks up, or that are no head: quantized like the one that all share."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from text import LIMITLESS, corpus, random_examples

from checkpoints import CHECKPOINTS, weights, write_tensors, write_tokenizer
from pointsman.bundle import names, read_manifest, verify_files
from pointsman.model import SwitchModel
from pointsman_calib import CoverageRule, Limits, quantize
from pointsman_export.bundle import export_bundle
from tolerances import W8A8_LOGITS

INPUTS = [[17, 5, 93, 60, 1], [44, 1], [8, 8, 101, 2, 39, 71, 12, 1]]
TARGETS = [[14, 25, 127, 60, 1], [99, 7, 31, 1], [5, 5, 5, 84, 1]]
LENIENT = Limits(max_loss_increase=100, min_agreement=0)
APART = tuple(names.STACK_EMBEDDINGS.values())


_BOTH = pytest.param("apart, and a head", marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=["apart, the decoder's the head", _BOTH, "shared, and a head"])
def bundle(request, tmp_path_factory) -> Path:
    spec = CHECKPOINTS["untied" if "and a head" in request.param else "tied"]
    tensors = weights(spec)
    if "apart" in request.param:
        embedding = tensors["shared.weight"]
        noise = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(3))
        tensors |= {APART[0]: embedding + noise, APART[1]: embedding}
    folder = tmp_path_factory.mktemp("checkpoint")
    write_tensors(folder, tensors, spec.layout)
    (folder / "config.json").write_text(json.dumps(spec.config))
    write_tokenizer(folder)
    target = tmp_path_factory.mktemp("bundle") / "bundle"
    export_bundle(folder, target)
    quantize(target, "int8")
    quantize(
        target,
        "int4",
        corpus=corpus(random_examples(3, [(20, 9)] * 24)),
        limits=LENIENT,
        coverage=CoverageRule(fewest_tokens=5),
    )
    text = corpus(random_examples(7, [(20, 9)] * 8))
    quantize(target, "int8-qdq", corpus=text, limits=LIMITLESS, coverage=CoverageRule(fewest_tokens=3))
    return target


VARIANTS = {"fused-int8": "fused-float32", "fused-int4": "fused-float32", "portable-int8-qdq": "portable-float32"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_embedding_is_in_eight_bits(bundle, variant):
    manifest = read_manifest(bundle)
    verify_files(bundle, manifest.files())
    embeddings = APART if manifest.architecture.separate_embeddings else (names.EMBEDDING,)
    formats = manifest.variants[variant].quantization.formats
    assert {formats[name].split()[0] for name in embeddings} == {"int8"}
    assert set(embeddings) == set(formats) & set(names.EMBEDDINGS)


@pytest.mark.parametrize("variant", ["fused-int8", "portable-int8-qdq"])
def test_logits_stay_near(bundle, variant):
    exact, found = (
        SwitchModel.load(bundle, device="cpu", variant=name, threads=1).score(INPUTS, TARGETS)
        for name in (VARIANTS[variant], variant)
    )
    found, exact = np.concatenate(found), np.concatenate(exact)
    # Of most tokens: where one goes to another expert, a small random network says something else.
    assert np.median(abs(found - exact)) / abs(exact).max() < W8A8_LOGITS.bound / 2
    assert not np.array_equal(found, exact)

"""Every activation that can be exported in every scheme: what is calibrated on is what transformers' modules see."""

from typing import get_args

import numpy as np
import pytest
import torch
from text import LIMITLESS, corpus, random_examples

from checkpoints import Spec, reference, write_checkpoint
from pointsman.bundle import Activation, Form, names, read_manifest
from pointsman.model import SwitchModel
from pointsman_calib import CoverageRule, quantize
from pointsman_calib.graphs.runs import PiecewiseRun, graph_files
from pointsman_calib.quantization import RECIPES, SCHEMES
from pointsman_calib.ranges.corpus_pass import variant_products
from pointsman_calib.ranges.observation import expert_tensor
from pointsman_calib.ranges.table import read_range_table
from pointsman_calib.schemes.weight_only.input_statistics import InputStatistics
from pointsman_export.bundle import export_bundle
from tolerances import HESSIAN, LOGITS

pytestmark = pytest.mark.slow  # two forms of four models are traced
CORPUS = corpus(random_examples(0, [(20, 10)] * 6))
SIZES = {"d_model": 16, "d_ff": 24, "num_heads": 2, "num_experts": 4, "encoder_layers": 2, "decoder_layers": 2}
DENSE, SPARSE = "encoder.block.0.layer.1.mlp", "encoder.block.1.layer.1.mlp"
FORMS: tuple[Form, ...] = ("fused", "portable")


@pytest.fixture(scope="module", params=get_args(Activation))
def activation(request) -> Activation:
    return request.param


@pytest.fixture(scope="module")
def checkpoint(activation, tmp_path_factory):
    folder = tmp_path_factory.mktemp(activation)
    return write_checkpoint(folder / "checkpoint", Spec(activation=activation, **SIZES), tokenizer=True)


@pytest.fixture(scope="module")
def bundle(checkpoint):
    """Of both forms, with the variants of all schemes."""
    folder = checkpoint.with_name("bundle")
    export_bundle(checkpoint, folder, forms=FORMS)
    for scheme in SCHEMES:
        quantize(folder, scheme, corpus=CORPUS, limits=LIMITLESS, coverage=CoverageRule())
    return folder


@pytest.fixture(scope="module")
def multiplied(checkpoint):
    """What transformers' output projections multiply, by the weight's name, [rows, d_ff]."""
    model = reference(checkpoint)
    inputs = {}

    def note(name):
        return lambda _, arguments, __: inputs.setdefault(name, []).append(arguments[0].reshape(-1, 24).numpy())

    for name, module in model.named_modules():
        if name.endswith(".wo"):
            module.register_forward_hook(note(f"{name}.weight"))
    with torch.no_grad():
        for example in CORPUS.examples:
            fed = np.append(0, example.targets[:-1])
            model(input_ids=torch.tensor(example.inputs[None]), decoder_input_ids=torch.tensor(fed[None]))
    return {name: np.concatenate(rows).astype(np.float64) for name, rows in inputs.items()}


def test_the_checkpoint_has_the_activation(bundle, activation):
    assert read_manifest(bundle).architecture.activation == activation


def test_hessians(bundle, multiplied):
    manifest = read_manifest(bundle)
    variant = manifest.variants["fused-float32"]
    run = PiecewiseRun(graph_files(bundle, variant), variant, lambda: CORPUS.batches(manifest.architecture))
    statistics = InputStatistics(run, manifest.architecture.num_experts)
    weights = [f"{DENSE}.wo.weight", *(names.expert_weight(SPARSE, expert, "wo") for expert in range(4))]
    for name, hessian in statistics.collect(weights).items():
        HESSIAN.check(hessian.matrix, multiplied[name].T @ multiplied[name], name)


def test_ranges(bundle, multiplied):
    table = read_range_table(bundle / names.variant_folder("int8-qdq") / names.RANGES)
    products = variant_products(bundle, read_manifest(bundle).variants["portable-float32"])
    (inner,) = (each.tensor for each in products if each.weight == names.stacked_experts(SPARSE, "wo"))
    for expert in range(4):
        rows, seen = multiplied[names.expert_weight(SPARSE, expert, "wo")], table.tensors[expert_tensor(inner, expert)]
        assert seen.count == rows.size
        LOGITS.check([seen.min, seen.max], [rows.min(), rows.max()], f"expert {expert}")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_variants(bundle, scheme):
    name = RECIPES[scheme].name
    sensitivity = read_manifest(bundle).variants[name].quantization.sensitivity
    assert 0 < abs(sensitivity.reached.loss_increase) < 0.3  # random layers amplify what is rounded
    ((generation,),) = SwitchModel.load(bundle, device="cpu", variant=name, threads=1).generate([[5, 9, 11, 1]])
    assert generation.token_ids

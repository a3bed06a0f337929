"""What products are fed, and which experts are asked, is what transformers' own modules see."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from text import corpus, random_examples

from checkpoints import reference
from pointsman.bundle import names, read_manifest
from pointsman_calib.graphs.runs import PIECE_BYTES, PiecewiseRun, graph_files
from pointsman_calib.rounding import BlockFormat, gptq, round_blocks
from pointsman_calib.schemes.weight_only.graphs import quantizable
from pointsman_calib.schemes.weight_only.input_statistics import GptqRounding, InputStatistics
from pointsman_export.architecture import expected_tensors
from tolerances import HESSIAN

WEIGHTS = (
    "encoder.block.0.layer.0.SelfAttention.q.weight",
    "encoder.block.2.layer.1.mlp.wo.weight",
    "encoder.block.3.layer.1.mlp.experts.expert_2.wi.weight",
    "decoder.block.1.layer.2.mlp.experts.expert_5.wo.weight",
    "decoder.block.2.layer.1.EncDecAttention.o.weight",
    "decoder.block.3.layer.1.EncDecAttention.k.weight",
)
CORPUS = corpus(random_examples(0, [(20, 10)] * 6))


@pytest.fixture(scope="module", params=["whole", "by sublayers"])
def statistics(request, tiny_bundle):
    manifest = read_manifest(tiny_bundle)
    variant, architecture = manifest.variants["fused-float32"], manifest.architecture
    piece_bytes = PIECE_BYTES if request.param == "whole" else 0
    graphs = graph_files(tiny_bundle, variant)
    run = PiecewiseRun(graphs, variant, lambda: CORPUS.batches(architecture), piece_bytes=piece_bytes)
    return InputStatistics(run, architecture.num_experts)


@pytest.fixture(scope="module")
def observed(tiny_checkpoint):
    """The inputs of every module of transformers' model that has a weight, and every router's choices."""
    model = reference(tiny_checkpoint)
    inputs, choices = {}, {}

    def hook(name):
        def note(_module, arguments, output):
            if name.endswith(".router"):
                choices.setdefault(name, []).append(output[0].flatten(0, -2).sum(0).numpy())
            else:
                inputs.setdefault(f"{name}.weight", []).append(arguments[0].reshape(-1, arguments[0].shape[-1]).numpy())

        return note

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) or name.endswith(".router"):
            module.register_forward_hook(hook(name))
    with torch.no_grad():
        for example in CORPUS.examples:
            fed = np.append(0, example.targets[:-1])
            model(input_ids=torch.tensor(example.inputs[None]), decoder_input_ids=torch.tensor(fed[None]))
    return inputs, choices


@pytest.mark.parametrize("weight", WEIGHTS)
def test_hessians(statistics, observed, weight):
    rows = np.concatenate(observed[0][weight]).astype(np.float64)
    hessian = statistics.collect([weight])[weight]
    assert hessian.matrix.any()
    HESSIAN.check(hessian.matrix, rows.T @ rows, weight)


def test_every_weight_of_a_product_is_found(statistics, tiny_bundle):
    shapes = expected_tensors(read_manifest(tiny_bundle).architecture)  # [out, inputs], as checkpoints store them
    expected = {
        name: inputs
        for name, (*out, inputs) in shapes.items()
        if out and not names.is_router(name) and not name.endswith("relative_attention_bias.weight")
    }
    assert {name: product.width for name, product in statistics.products.items()} == expected
    models = {role: ir.Model(pieces.graph, ir_version=10) for role, pieces in statistics.run.graphs.items()}
    weights = quantizable(models)
    assert {name: (weight.out, weight.inputs) for name, weight in weights.items()} == {
        name: shapes[name] for name in expected
    }
    assert {name for name, weight in weights.items() if weight.gathered} == {names.EMBEDDING}  # which is the head too


def test_coverage(statistics, observed):
    counts = statistics.coverage()
    assert len(counts) == 4
    for layer, seen in counts.items():
        assert seen == tuple(np.sum(observed[1][f"{layer}.router"], axis=0))


def test_groups_do_not_change_what_is_rounded(statistics, monkeypatch):
    order, form = sorted(WEIGHTS), BlockFormat(bits=4, block_size=16)
    drawn = np.random.default_rng(0)
    weights = {name: drawn.standard_normal((statistics.products[name].width, 8)).astype(np.float32) for name in order}
    groups = []
    collect = statistics.collect
    monkeypatch.setattr(statistics, "collect", lambda group: groups.append(group) or collect(group))

    def rounded(budget, thin):
        groups.clear()
        rounding = GptqRounding(statistics, order, thin, budget)
        return {name: rounding(name)(weights[name], form).packed_codes() for name in order}

    at_once, together = rounded(1 << 30, {}), len(groups)
    one_by_one = rounded(1, {})
    assert (together, len(groups)) == (1, len(order))
    for name in order:
        np.testing.assert_array_equal(at_once[name], one_by_one[name])
    thin = rounded(1 << 30, {"encoder.block.3.layer.1.mlp": (2,)})
    hessians = statistics.collect(order)
    for name in order:
        expected = round_blocks(weights[name], form) if "expert_2" in name else None
        expected = expected or gptq(weights[name], hessians[name].matrix, form)
        np.testing.assert_array_equal(thin[name], expected.packed_codes())

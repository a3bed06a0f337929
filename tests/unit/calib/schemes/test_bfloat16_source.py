"""A bundle in bfloat16 is quantized as one in float32 is that holds the same numbers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from checkpoints import CHECKPOINTS, write_checkpoint
from pointsman import SwitchModel
from pointsman.bundle import names, read_manifest, sha256_of
from pointsman.errors import BundleError
from pointsman_calib import quantize
from pointsman_calib.graphs.widening import widen
from pointsman_export.bundle import export_bundle

SOURCES, TARGETS = [[5, 9, 33, 7, 1], [40, 8, 21, 60, 3, 12, 1]], [[60, 8, 9, 1], [7, 7, 30, 1]]
NAMES = ("tied", "router-bias", "gated")  # the last is untied


@pytest.fixture(scope="module", params=NAMES)
def bundles(request, tmp_path_factory):
    """A checkpoint in bfloat16, exported in float32 and as it is."""
    folder, spec = tmp_path_factory.mktemp("bfloat16"), replace(CHECKPOINTS[request.param], precision="bfloat16")
    checkpoint = write_checkpoint(folder / "checkpoint", spec, tokenizer=True)
    for dtype in ("float32", "bfloat16"):
        export_bundle(checkpoint, folder / dtype, forms=["fused"], dtype=dtype)
    return folder / "float32", folder / "bfloat16"


def scores(folder, variant):
    with SwitchModel.load(folder, "cpu", variant, threads=1) as model:
        return np.concatenate(model.score(SOURCES, TARGETS))


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_it_is_the_variant_that_float32_gives(bundles, scheme):
    for folder in bundles:
        quantize(folder, scheme)
    one, other = (sha256_of(folder / names.weights_file(scheme)) for folder in bundles)
    assert one == other
    one, other = (read_manifest(folder).variants[f"fused-{scheme}"] for folder in bundles)
    assert (one.encoder, one.decoder) == (other.encoder, other.decoder)
    assert other.quantization.source == "fused-bfloat16"
    assert one.quantization.formats == other.quantization.formats
    one, other = (scores(folder, f"fused-{scheme}") for folder in bundles)
    assert np.abs(one - other).max() < 0.02  # where codes of activations fall to the other side


def graphs(folder):
    variant = next(iter(read_manifest(folder).variants.values()))
    return [folder / graph.file for graph in (variant.encoder, variant.decoder)]


def test_nothing_is_left_in_bfloat16_but_what_lies_on_disk(bundles):
    for path in graphs(bundles[1]):
        model = ir.load(path)
        widen(model)
        nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
        values = [value for node in nodes for value in (*node.inputs, *node.outputs) if value is not None]
        assert not any(value.dtype == ir.DataType.BFLOAT16 for value in (*values, *model.graph.outputs))
        constants = [value.const_value for value in values if value.const_value is not None]
        inner = [tensor for tensor in constants if not isinstance(tensor, ir.ExternalTensor)]
        inner += [attribute.as_tensor() for node in nodes for attribute in tensors_of(node)]
        assert not any(tensor.dtype == ir.DataType.BFLOAT16 for tensor in inner)
        assert not any(node.op_type == "Cast" and node.attributes["to"].as_int() == 16 for node in nodes)
        assert not any("alpha" in node.attributes for node in nodes)


def tensors_of(node):
    return [attribute for attribute in node.attributes.values() if attribute.type == ir.AttributeType.TENSOR]


def test_a_float32_graph_stays_as_it_is(bundles):
    for path in graphs(bundles[0]):
        model = ir.load(path)
        widen(model)
        assert ir.to_proto(model) == ir.to_proto(ir.load(path))


def test_a_corpus_is_refused(exports, calibration_file):
    export = exports("bfloat16", dtype="bfloat16")
    with pytest.raises(BundleError) as refused:
        quantize(export.folder, "int8", corpus=[calibration_file])
    assert str(refused.value) == (
        f"{export.folder} has fused-bfloat16 to quantize, which does not run on the CPU, and weights are rounded for a "
        "corpus there; leave the corpus out, or export it with `pointsman-export bundle --form fused --dtype float32`"
    )
    assert not (Path(export.folder) / names.variant_folder("int8")).exists()

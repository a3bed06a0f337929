"""A step whose source comes in blocks, beside the bundle's own, which takes inputs padded to the longest."""

import numpy as np
import pytest

from exports import FORMS
from pointsman.backends.onnxruntime.host.encoded_blocks import EncodedBlocks
from pointsman.backends.onnxruntime.host.memory import NONE, Arrays, Memory
from pointsman.backends.onnxruntime.models.graphs import nodes_of, operator
from pointsman.backends.onnxruntime.models.source_blocks import with_source_in_blocks
from pointsman.backends.onnxruntime.session import session
from pointsman.bundle import SOURCE_BLOCK, Variant, attending, attention_heads, cache_positions, empty_cache, names
from pointsman.errors import BundleError
from tolerances import FORMS as BETWEEN_FORMS

LENGTHS = (3, SOURCE_BLOCK, SOURCE_BLOCK + 1, 5 * SOURCE_BLOCK - 2, 1)


@pytest.fixture(scope="module", params=FORMS)
def bundle(exports, request):
    return exports("tied", request.param)


def variant_of(bundle) -> Variant:
    (variant,) = bundle.manifest.variants.values()
    return variant


def stepped(bundle, model: bytes | None, given: dict[str, np.ndarray], rows: int) -> np.ndarray:
    """Logits of a first step, each row of which is fed a token of its own."""
    graph = variant_of(bundle).decoder
    decoder = session(bundle.folder / graph.file, "cpu", 1, model=model)
    fed = {names.INPUT_IDS: 2 + np.arange(rows)[:, None], names.LENGTHS: np.zeros(rows, np.int64)}
    logits, *_ = decoder.run(None, fed | given | cache_positions(32) | empty_cache(graph.inputs, rows, 32))
    return logits


def encoded(rng: np.random.Generator, variant: Variant, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Keys and values of some size; those of padding are zeros."""
    sizes = dict(zip((names.BATCH, names.SOURCE), mask.shape, strict=True))
    found = {}
    for spec in variant.encoder.outputs:
        shape = [1] * len(spec.axes)
        shape[0], shape[spec.axes.index(names.SOURCE)] = mask.shape
        found[spec.name] = (rng.normal(0, 2, spec.shape(sizes)) * mask.reshape(shape)).astype(np.float32)
    return found


@pytest.mark.parametrize("row_inputs", [[0, 1, 2, 3, 4], [3, 0, 0, 4, 3, 2, 1, 3]])
def test_logits_are_those_of_padded_inputs(bundle, row_inputs):
    rng, variant, inputs = np.random.default_rng(0), variant_of(bundle), np.array(row_inputs)
    mask = (np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]).astype(np.int64)
    mask[3, 4:9] = mask[3, SOURCE_BLOCK : 2 * SOURCE_BLOCK] = 0  # a block without tokens amid others
    given = encoded(rng, variant, mask)
    heads = attention_heads(variant.decoder.inputs)
    padded = {names.ATTENTION_MASK: mask, **attending(inputs, len(LENGTHS), heads=heads), **given}
    blocks = EncodedBlocks(variant.encoder.outputs, heads, Memory(0))
    blocks.make_room(LENGTHS)
    blocks.put(0, mask, Arrays(given, NONE.memory))
    blocks.arrived(LENGTHS)
    model = with_source_in_blocks((bundle.folder / variant.decoder.file).read_bytes())
    found = stepped(bundle, model, blocks.read(inputs), len(inputs))
    BETWEEN_FORMS.check(found, stepped(bundle, None, padded, len(inputs)), "in blocks")


def test_each_layer_takes_nine_nodes_more_and_a_step_three(bundle):
    variant = variant_of(bundle)
    before = (bundle.folder / variant.decoder.file).read_bytes()
    after = with_source_in_blocks(before)
    assert len(nodes_of(after)) - len(nodes_of(before)) == 3 + 9 * bundle.manifest.architecture.decoder.layers
    assert sum(operator(node) == b"Softmax" for node in nodes_of(after)) == (
        sum(operator(node) == b"Softmax" for node in nodes_of(before)) + bundle.manifest.architecture.decoder.layers
    )


def with_other_products(model: bytes) -> bytes:
    """A decoder that has another operator, with a name as long, in the place of each product."""
    return model.replace(b"\x22\x06MatMul", b"\x22\x06Divide")


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(lambda encoder, _: encoder, id="an encoder"),
        pytest.param(lambda _, decoder: with_other_products(decoder), id="another operator"),
        pytest.param(lambda _, decoder: decoder[: len(decoder) // 2], id="cut off"),
        pytest.param(lambda *_: b"no model", id="no model"),
    ],
)
def test_a_graph_that_attends_otherwise_is_refused(bundle, changed):
    graphs = variant_of(bundle).encoder, variant_of(bundle).decoder
    with pytest.raises(BundleError, match="export the checkpoint again"):
        with_source_in_blocks(changed(*((bundle.folder / graph.file).read_bytes() for graph in graphs)))

"""Graphs run in pieces give, bit for bit, what they give whole, and run no piece twice that need not be."""

import re

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from text import corpus, random_examples

from pointsman.bundle import names, whole_targets
from pointsman.errors import BundleError
from pointsman_calib.graphs.pieces import GraphPieces
from pointsman_calib.graphs.runs import PIECE_BYTES, PiecewiseRun, graph_files

LENGTHS = [(9, 4), (30, 11), (2, 2), (17, 8), (12, 6)]
ROLES = ("encoder", "decoder")


def text_of(export):
    return list(corpus(random_examples(7, LENGTHS)).batches(export.manifest.architecture, 2))


def run_of(export, piece_bytes):
    (variant,) = export.manifest.variants.values()
    batches = text_of(export)
    return PiecewiseRun(graph_files(export.folder, variant), variant, lambda: batches, piece_bytes=piece_bytes)


def floats_inside(graph: ir.Graph) -> list[str]:
    """What layers multiply, norms and routers give, and everything that the graph hands out."""
    wanted = {value.name for node in graph if node.op_type in ("MatMul", "Gemm") for value in node.inputs[:1]}
    wanted |= {node.inputs[1].name for node in graph if node.op_type == "Scan"}  # over tokens and their experts
    wanted |= {node.outputs[0].name for node in graph if node.op_type in ("RMSNormalization", "ArgMax", "Add")}
    return sorted(wanted | {value.name for value in graph.outputs})


def whole(export):
    """All these values of both graphs, each loaded at once: a batch's, for each batch."""
    (variant,) = export.manifest.variants.values()
    sessions, names = {}, {}
    for role, path in graph_files(export.folder, variant).items():
        model = ir.load(path)
        values = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
        names[role] = floats_inside(model.graph)
        model.graph.outputs.extend(values[name] for name in names[role] if values[name] not in model.graph.outputs)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
        sessions[role] = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    for batch in text_of(export):
        feeds = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        encoded = dict(zip(names["encoder"], sessions["encoder"].run(names["encoder"], feeds), strict=True))
        feeds |= {"input_ids": batch.decoder_input_ids}
        feeds |= whole_targets(variant.decoder.inputs, *batch.decoder_input_ids.shape)
        feeds |= {spec.name: encoded[spec.name] for spec in variant.encoder.outputs}
        decoded = dict(zip(names["decoder"], sessions["decoder"].run(names["decoder"], feeds), strict=True))
        yield {"encoder": encoded, "decoder": decoded}


@pytest.mark.parametrize("piece_bytes", [0, 30_000, PIECE_BYTES])
@pytest.mark.parametrize(
    ("name", "form"),
    [("tied", "fused"), ("capacity-2", "portable"), pytest.param("gated", "fused", marks=pytest.mark.slow)],
)
def test_pieces_give_what_whole_graphs_give(exports, name, form, piece_bytes):
    export = exports(name, form)
    run = run_of(export, piece_bytes)
    wanted = {role: floats_inside(pieces.graph) for role, pieces in run.graphs.items()}
    found = [{role: {} for role in ROLES} for _ in text_of(export)]
    numbers = {id(batch): number for number, batch in enumerate(run.batches())}
    for batch, role, values in run.values(wanted):
        assert not found[numbers[id(batch)]][role].keys() & values.keys()
        found[numbers[id(batch)]][role] |= values
    for got, expected in zip(found, whole(export), strict=True):
        for role in ROLES:
            assert got[role].keys() == expected[role].keys()
            for value, array in expected[role].items():
                np.testing.assert_array_equal(got[role][value], array, err_msg=value)


def test_a_small_model_is_cut_before_its_final_norms_only(exports):
    for role, pieces in run_of(exports("tied"), PIECE_BYTES).graphs.items():
        assert pieces.streams == [f"{role}.block.3"]


def test_pieces_keep_to_a_size_or_are_one_sublayer(exports):
    export = exports("tied")
    finest, larger = (GraphPieces(export.graph("decoder"), size) for size in (0, 60_000))
    assert len(finest) == 1 + 3 * 4 + 1
    assert 2 < len(larger) < len(finest)
    assert set(larger.streams) < set(finest.streams)
    blocks = [name for name in finest.streams if re.fullmatch(r"decoder\.block\.\d+", name)]
    assert blocks == [f"decoder.block.{number}" for number in range(4)]
    assert [finest.piece_of(f"decoder.block.{number}") for number in range(4)] == [3, 6, 9, 12]
    for pieces in (finest, larger):
        for number in range(len(pieces)):
            assert weight_bytes(pieces, number) <= 60_000 or is_one_sublayer(pieces, number, finest)


def weight_bytes(pieces, number) -> int:
    ends = pieces.around(number)[1] or ["logits"]
    inputs = [*(value.name for value in pieces.graph.inputs), *pieces.around(number)[0]]
    part = ir.convenience.extract(pieces.graph, inputs, ends)
    weights = (value.const_value for value in part.initializers.values())
    return sum(weight.nbytes for weight in weights if isinstance(weight, ir.ExternalTensor))


def is_one_sublayer(pieces, number, finest) -> bool:
    before, after = pieces.around(number)
    return not before or not after or finest.streams.index(after[0]) == finest.streams.index(before[0]) + 1


def test_asking_layer_by_layer_runs_few_pieces_twice(exports, monkeypatch):
    run = run_of(exports("tied"), 0)
    loaded = {role: [] for role in ROLES}
    load = GraphPieces.load

    def noted(pieces, number, outputs):
        loaded[next(role for role in ROLES if run.graphs[role] is pieces)].append(number)
        return load(pieces, number, outputs)

    def ask(encoder=(), decoder=()):
        for numbers in loaded.values():
            numbers.clear()
        return [values for _, _, values in run.values({"encoder": encoder, "decoder": decoder})]

    monkeypatch.setattr(GraphPieces, "load", noted)
    asked = ask(encoder=["encoder.block.1"])
    assert loaded == {"encoder": [0, 1, 2, 3, 4], "decoder": []}
    again = ask(encoder=["encoder.block.1"])
    assert loaded == {"encoder": [4], "decoder": []}
    for one, other in zip(asked, again, strict=True):
        np.testing.assert_array_equal(one["encoder.block.1"], other["encoder.block.1"])
    ask(encoder=["/encoder/block.2/layer.0/layer_norm/RMSNormalization:0"])
    assert loaded["encoder"] == [5]
    ask(decoder=["decoder.block.0"])
    crossing = 9
    assert [number for number in loaded["encoder"] if number != crossing] == [6, 7, 8]
    assert loaded["decoder"] == [0, 1, 2, 3]
    ask(encoder=["/encoder/final_layer_norm/RMSNormalization:0"], decoder=["decoder.block.1"])
    assert set(loaded["encoder"]) == {crossing}
    assert loaded["decoder"] == [4, 5, 6]
    ask(encoder=["encoder.block.0"])
    assert loaded == {"encoder": [0, 1, 2], "decoder": []}


def test_temporary_files_leave_nothing(exports, tmp_path):
    (variant,) = exports("tied").manifest.variants.values()
    graphs, batches = graph_files(exports("tied").folder, variant), text_of(exports("tied"))
    run = PiecewiseRun(graphs, variant, lambda: batches, scratch=tmp_path)
    next(run.values({"decoder": ["logits"]}))
    assert not list(tmp_path.iterdir())


def test_cut_where_asked(exports):
    """At blocks' ends alone, and the same values; a graph is not cut where it has no such value."""
    export = exports("tied")
    (variant,) = export.manifest.variants.values()
    files, batches = graph_files(export.folder, variant), text_of(export)
    cuts = {role: [names.block_path(role, number) for number in range(4)] for role in ROLES}
    run = PiecewiseRun(files, variant, lambda: batches, cuts=cuts)
    assert [run.graphs[role].streams for role in ROLES] == list(cuts.values())
    (got, *_), (expected, *_) = (
        [values["logits"] for _, _, values in each.values({"decoder": ["logits"]})]
        for each in (run, run_of(export, PIECE_BYTES))
    )
    np.testing.assert_array_equal(got, expected)
    with pytest.raises(BundleError, match=r"does not compute decoder\.block\.4; export the bundle again"):
        PiecewiseRun(files, variant, lambda: batches, cuts=cuts | {"decoder": ["decoder.block.4"]})
    with pytest.raises(BundleError, match=r"does not compute softness; export the bundle again"):
        next(run.values({"encoder": ["softness"]}))


def test_nodes_that_are_added(exports):
    pieces = GraphPieces(exports("tied").graph("encoder"), 0)
    stream = ir.convenience.create_value_mapping(pieces.graph)["encoder.block.1"]
    (largest,) = (node := ir.node("ReduceMax", [stream], {"keepdims": 0})).outputs
    largest.name = "largest"
    pieces.append([node])
    assert pieces.piece_of("largest") == pieces.piece_of("encoder.block.1") + 1  # where the stream is read


def test_a_graph_that_the_engine_refuses(exports, tmp_path):
    path = tmp_path / "encoder.onnx"
    path.write_bytes(exports("tied").graph("encoder").read_bytes())  # without its weights
    with pytest.raises(BundleError, match=r"ONNX Runtime refuses encoder\.onnx: "):
        GraphPieces(path, PIECE_BYTES).load(0, ["encoder.block.3"])

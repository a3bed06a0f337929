"""What benchmarks make of what they measure: bytes and operations counted, medians, promises, names of machines."""

import importlib
import json
import math
import shutil

import numpy as np
import pytest

from places import EXAMPLES
from pointsman.bundle import read_manifest
from pointsman_calib import quantize


@pytest.mark.parametrize(
    ("value", "at_least", "held"), [(2.3, True, True), (2.29, True, False), (1.2, False, True), (1.21, False, False)]
)
def test_bars(load, value, at_least, held):
    limit = 2.3 if at_least else 1.2
    assert load("measurements").Bar("", value, limit, at_least=at_least).held is held


def test_a_disturbed_round_does_not_move_the_median(load):
    rounds = [[1.0, 1.1, 1.2], [9.0, 9.1, 9.2], [1.0, 1.2, 1.3]]
    assert load("measurements").median_over_rounds(rounds) == 1.2


def test_time_inside_a_branch_is_counted_once(load):
    operators = load("operators")
    events = [
        operators.Event("model_run", "", 0, 100),
        operators.Event("if", "If", 10, 40),
        operators.Event("product", "MatMul", 15, 30),
        operators.Event("sum", "Add", 50, 20),
    ]
    assert {event.name: own for event, own in operators.own_times(events)} == {
        "model_run": 40,
        "if": 10,
        "product": 30,
        "sum": 20,
    }


def test_the_roofline_counts_what_a_request_reads(load):
    """Against a count by hand: every decoder weight once a token, of the experts one in eight."""
    shapes, roofline, cases = load("shapes"), load("roofline"), load("cases")
    routing = {"encoder_experts_hit": 8.0, "decoder_experts_hit": 1.0}
    square, wide, norm = 768 * 768, 2 * 768 * 3072, 768
    decoder = 12 * (6 * square + wide + 3 * norm) + 6 * 8 * 768 + 32 * 12 + norm + 32128 * 768
    encoder = 12 * (4 * square + 2 * norm) + 6 * (1 + 8) * wide + 6 * 8 * 768 + 32 * 12 + norm + 12 * 2 * square
    case, base = cases.Case("", new_tokens=3), shapes.SHAPES["switch-base-8"]
    assert roofline.request_bytes(base, case, routing) == 4 * (encoder + 3 * decoder)
    reads = load("speeds").Speeds({0: 4.0}, {"float32": math.inf})
    demand = roofline.float_demand(base, routing, "float32", 4, cross=True)
    assert demand.least_seconds(case, reads) == encoder + 3 * decoder
    without = roofline.float_demand(base, routing, "float32", 4, cross=False)
    assert without.encoder_bytes == demand.encoder_bytes - 4 * 12 * 2 * square


@pytest.mark.parametrize("experts", [1.0, 2.5])
def test_what_graphs_read_is_what_tensors_say(load, exports, experts):
    """In float32, to the graphs' own constants."""
    bundle = exports("tied", "fused").folder
    routing = {"encoder_experts_hit": experts, "decoder_experts_hit": experts}
    demand = load("roofline").float_demand(read_manifest(bundle).architecture, routing, "float32", 4, cross=True)
    for role, wanted in (("encoder", demand.encoder_bytes), ("decoder", demand.step_bytes)):
        assert load("reading").bytes_read(bundle, "fused-float32", role, experts) == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize("scheme", ["float32", "int8", "int4"])
def test_products_alone_are_all_that_is_multiplied(load, exports, tmp_path, scheme):
    """Their weights are what a step reads but for norms, biases, the router and scales; the engine takes the graph."""
    bundle = exports("tied", "fused").folder
    if scheme != "float32":
        bundle = shutil.copytree(bundle, tmp_path / "bundle")
        quantize(bundle, scheme)
    products = load("products")
    for role in ("encoder", "decoder"):
        run = products.Run(role, rows=3, experts=2)
        timed, size = products._ready(bundle, f"fused-{scheme}", run, threads=1)
        assert timed() > 0
        assert 0.6 < size / load("reading").bytes_read(bundle, f"fused-{scheme}", role, experts_hit=2) < 1


def test_what_a_quantized_step_reads(load, exports, tmp_path):
    """Codes of a byte, and a scale for each column of them."""
    bundle = tmp_path / "bundle"
    shutil.copytree(exports("tied", "fused").folder, bundle)
    quantize(bundle, "int8")
    roofline, architecture = load("roofline"), read_manifest(bundle).architecture
    routing = {"encoder_experts_hit": 2.0, "decoder_experts_hit": 1.0}
    found = roofline.quantized_demand(bundle, "fused-int8", architecture, routing)
    codes = roofline.float_demand(architecture, routing, "int8", 1, cross=True)
    assert 1.0 < found.step_bytes / codes.step_bytes < 2.0
    assert found.step_operations == codes.step_operations


@pytest.mark.parametrize(
    ("role", "most_nodes", "most_bytes"), [("encoder", 241, 1_890_000), ("decoder", 364, 2_960_000)]
)
def test_what_the_demo_runs_and_reads_in_int8(load, role, most_nodes, most_bytes):
    """Without clocks: nodes outside of branches, and bytes of one token. Whoever adds to them says why."""
    bundle = EXAMPLES / "demo_int8"
    graph = importlib.import_module("onnx_ir").load(
        bundle / read_manifest(bundle).variants["fused-int8"].graph(role).file
    )
    assert len(list(graph.graph)) <= most_nodes
    assert load("reading").bytes_read(bundle, "fused-int8", role, 1.0) <= most_bytes


def test_of_two_forms_of_a_weight_the_smaller_counts(load, tmp_path):
    """A weight that is there twice, for few rows and for many, is read once."""
    reading, ir = load("reading"), importlib.import_module("onnx_ir")

    def product(name, size):
        weight = ir.Value(name=name, const_value=ir.tensor(np.zeros((4, size), np.float32)))
        return ir.Node("", "MatMul", [ir.Value(name="x"), weight])

    branches = [ir.Graph([], [], nodes=[product(name, size)]) for name, size in (("few", 8), ("many", 16))]
    chosen = ir.Node(
        "",
        "If",
        [ir.Value(name="rows")],
        [ir.AttrGraph("then_branch", branches[0]), ir.AttrGraph("else_branch", branches[1])],
    )
    table = ir.Value(name="table", const_value=ir.tensor(np.zeros((99, 4), np.float32)))
    looked_up = ir.Node("", "Gather", [table, ir.Value(name="ids")])
    graph = ir.Graph([], [], nodes=[chosen, looked_up, product("always", 2)])
    assert reading._weights(graph) == {"few": 4 * 8 * 4, "always": 4 * 2 * 4}


def test_the_roofline_counts_what_a_request_multiplies(load):
    """By hand: every token meets each weight once, and one expert of a layer."""
    shapes, roofline, cases = load("shapes"), load("roofline"), load("cases")
    square, wide, norm = 768 * 768, 2 * 768 * 3072, 768
    encoder = 12 * (4 * square + 2 * norm + wide) + 6 * 8 * 768 + 32 * 12 + norm + 12 * 2 * square
    case = cases.Case("", batch=2, source=512, new_tokens=0)
    multiplies = load("speeds").Speeds({0: math.inf}, {"float32": 2.0})
    demand = roofline.float_demand(shapes.SHAPES["switch-base-8"], {}, "float32", 4, cross=True)
    assert demand.least_seconds(case, multiplies) == 1024 * encoder


def test_speeds_of_the_machine(load):
    measured = load("machine_speeds").speeds(2)
    assert measured.memory > 1e8
    assert set(measured.operations_a_second) == {"float32", "bfloat16", "int8"}
    assert min(measured.operations_a_second.values()) > 1e8


def test_what_fits_a_cache_is_read_at_its_speed(load):
    speeds = load("roofline").Speeds
    measured = speeds({100: 50.0, 200: 40.0, 1000: 10.0}, {"int8": 1.0})
    assert [measured.reading(size) for size in (50, 100, 199, 200, 999, 5000)] == [50, 50, 50, 40, 40, 10]
    assert measured.memory == 10.0
    faster = speeds({100: 60.0, 200: 30.0, 1000: 10.0}, {"int8": 3.0})
    assert speeds.best([measured, faster]) == speeds({100: 60.0, 200: 40.0, 1000: 10.0}, {"int8": 3.0})
    assert speeds.from_json(json.loads(json.dumps(measured.to_json()))) == measured


@pytest.fixture
def measured(load):
    """Two rounds of a contestant, of one engine or another."""
    cases = load("cases").Case

    def of(engine="onnxruntime", greedy=0.4, first=0.09, encoder=0.3, **more):
        job = load("contestants.job").Job(
            engine=engine,
            path="",
            cases=(cases("greedy"), cases("first token", new_tokens=1), cases("encoder 512", source=512, new_tokens=0)),
        )
        times = {"greedy": greedy, "first token": first, "encoder 512": encoder}
        one = {name: {"seconds": [seconds], "peak_bytes": 1e9} for name, seconds in times.items()}
        printed = {"load_seconds": 1.0, "peak_bytes": 2e9, "cases": one}
        return load("contest").Measured(job, [printed, printed], **{"bytes": 100, **more})

    return of


def test_a_step_is_what_more_tokens_take(measured):
    assert measured().step_seconds() == pytest.approx(0.01)
    assert measured().first_peak_bytes == 1e9


def test_a_step_is_taken_off_where_the_encoder_cannot_run_alone(measured):
    assert measured().seconds("encoder 512") == 0.3
    assert measured("ctranslate2").seconds("encoder 512") == pytest.approx(0.29)
    assert measured("ctranslate2").seconds("greedy") == 0.4


def test_promises_are_held_to_the_faster_reference(load, measured):
    promises = load("promises")
    contestants = {
        "transformers float32": measured("transformers", greedy=1.8, encoder=0.6),
        "transformers bfloat16": measured("transformers", greedy=2.0, encoder=0.3),
        "ctranslate2 int8": measured("ctranslate2"),
        "fused-int8": measured(bytes=20),
    }
    bars = {bar.name: (round(bar.value, 2), bar.held) for bar in promises.bars(contestants, {"fused-int8": 0.007})}
    assert bars == {
        "fused-int8: times the speed of ctranslate2 int8, greedy": (1.0, False),
        "fused-int8: times the speed of ctranslate2 int8, encoder 512": (0.97, False),
        "fused-int8: times the speed of transformers float32, greedy": (4.5, True),
        "fused-int8: times the speed of transformers bfloat16, encoder 512": (1.0, False),
        "fused-int8: part of the memory roofline, a step of one row": (0.7, False),
        "fused-int8: seconds to load": (1.0, True),
    }


def test_what_a_step_reads_is_unknown_where_the_reference_has_not_run(load, measured):
    """Nobody has told which experts tokens reach, and nothing is promised of memory's speed."""
    names = [bar.name for bar in load("promises").bars({"fused-int8": measured()}, {})]
    assert names == ["fused-int8: seconds to load"]


def test_growth_by_experts_is_that_of_all_sparse_blocks(load):
    growth = load("growth")
    by_experts = growth.growth_by_experts({8: 0.010, 32: 0.0102, 128: 0.0104})
    assert by_experts == pytest.approx({8: 1.0, 32: 1.06, 128: 1.12})
    assert [bar.held for bar in growth.bars(by_experts)] == [True, False]


@pytest.mark.parametrize(
    ("cpu", "sets", "name", "file"),
    [
        ("AMD EPYC", ["avx2", "avx512f", "avx512_vnni"], "AMD EPYC", "epyc-avx512_vnni"),
        ("Intel(R) Xeon(R) Processor", ["avx_vnni", "avx512_vnni", "amx_int8"], "Intel Xeon", "xeon-avx512_vnni-amx"),
        ("Intel(R) Core(TM) i7 CPU @ 3.4GHz", ["avx", "avx2"], "Intel Core i7", "core-i7-avx2"),
        ("Neoverse-N1", ["asimd", "asimddp"], "Neoverse-N1", "neoverse-n1-asimddp"),
    ],
)
def test_machines_have_names(load, cpu, sets, name, file):
    described = {"cpu": cpu, "instruction_sets": sets}
    assert load("machine").short_name(described) == name
    assert load("machine").file_name(described) == file

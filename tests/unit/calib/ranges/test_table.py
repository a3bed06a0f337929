"""The table of ranges: round trips, and the sentence for each kind of damage."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pointsman.bundle import Calibration, FileRecord, Graph, Parity, Variant
from pointsman.errors import BundleError, OutputError
from pointsman_calib.ranges import METHODS, RangeObserver
from pointsman_calib.ranges.table import (
    SCHEMA,
    Provenance,
    RangeTable,
    read_range_table,
    tensor_range,
    variant_digest,
    write_range_table,
)

GRAPH = Graph(file="portable.encoder.onnx", inputs=(), outputs=())
VARIANT = Variant(
    form="portable",
    precision="float32",
    capacity=64,
    encoder=GRAPH,
    decoder=GRAPH,
    files=(FileRecord(path="a", bytes=1, sha256="aa"), FileRecord(path="b", bytes=1, sha256="bb")),
    parity=Parity(reference="", max_error=0.0, worst="", tolerance=1.0, expert_agreement=1.0),
)


def observer(name, values):
    made = RangeObserver(name)
    made.update(np.asarray(values, np.float32))
    return made


@pytest.fixture
def table():
    seen = observer("encoder.1.mlp.input", np.random.default_rng(0).standard_normal(5000))
    provenance = Provenance(
        calibration=Calibration(documents=("aa", "ff"), seed=3, window=512),
        sequences=64,
        source_tokens=4096,
        target_tokens=1024,
        variant="float32-portable",
        variant_sha256=variant_digest(VARIANT),
        percentile=99.9,
        versions={"pointsman": "0.1.0", "onnxruntime": "1.32.0"},
    )
    tensors = {
        "encoder.1.mlp.input": tensor_range(seen, 99.9),
        "encoder.1.expert.2.input": tensor_range(RangeObserver("encoder.1.expert.2.input")),
        "decoder.0.zeros": tensor_range(observer("decoder.0.zeros", np.zeros(4))),
    }
    return RangeTable(schema=SCHEMA, provenance=provenance, tensors=tensors, coverage={"encoder.1": (40, 7, 0)})


def test_what_is_written_is_read(table, tmp_path):
    path = tmp_path / "ranges.json"
    path.write_text("an older one")
    write_range_table(table, path)
    assert read_range_table(path) == table
    assert [entry.name for entry in tmp_path.iterdir()] == ["ranges.json"]


@pytest.mark.parametrize("method", METHODS)
def test_rows_hold_what_the_observer_says(method):
    seen = observer("tensor", np.random.default_rng(0).laplace(size=5000))
    row = tensor_range(seen, 99.0)
    expected = seen.amax(method, 99.0) if method == "percentile" else seen.amax(method)
    assert getattr(row.amax, method) == expected
    assert (row.count, row.zeros, row.min, row.max) == (5000, 0, seen.least, seen.greatest)


def test_ranges_are_looked_up(table):
    assert table.amax("encoder.1.mlp.input", "entropy") == table.tensors["encoder.1.mlp.input"].amax.entropy
    assert table.amax("decoder.0.zeros", "mse") == 0.0


@pytest.mark.parametrize(
    ("tensor", "sentence"),
    [
        ("encoder.9", "the range table has no tensor encoder.9; calibrate this bundle again"),
        ("encoder.1.expert.2.input", "no value of encoder.1.expert.2.input was seen"),
    ],
)
def test_ranges_that_are_not_there_are_said_so(table, tensor, sentence):
    with pytest.raises(BundleError, match=sentence):
        table.amax(tensor, "minmax")


def test_the_variant_is_known_by_its_files(table):
    table.require_variant("portable", replace(VARIANT, files=VARIANT.files[::-1]))
    changed = replace(VARIANT, files=(replace(VARIANT.files[0], sha256="ab"), VARIANT.files[1]))
    with pytest.raises(BundleError, match="measured on another float32-portable than this bundle's portable"):
        table.require_variant("portable", changed)


def change(document, path, value):
    *folders, last = path
    for folder in folders:
        document = document[folder]
    if value is None:
        del document[last]
    else:
        document[last] = value


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("schema",), SCHEMA + 1, "has schema 2 and this pointsman reads up to 1; upgrade pointsman"),
        (("provenance", "sequences"), None, "provenance.sequences is missing"),
        (("provenance", "calibration", "seed"), 1.5, "provenance.calibration.seed must be int, not 1.5"),
        (("extra",), 1, "extra is unknown"),
        (("tensors", "decoder.0.zeros", "zeros"), 5, "tensors.decoder.0.zeros.zeros must be from 0 to count"),
        (("tensors", "decoder.0.zeros", "count"), 0, "tensors.decoder.0.zeros.zeros must be from 0 to count"),
        (("tensors", "encoder.1.expert.2.input", "count"), 3, "min, max and amax if and only if count is above 0"),
        (("tensors", "decoder.0.zeros", "amax", "mse"), -1.0, "decoder.0.zeros.amax must be finite and not negative"),
        (("coverage", "encoder.1"), [3, -1], "coverage.encoder.1 must not be negative"),
        (("provenance", "percentile"), float("nan"), "is not valid JSON .NaN is not a JSON number"),
        (("tensors", "decoder.0.zeros", "max"), "1e999", "max must be"),
    ],
)
def test_damage_is_named(table, tmp_path, path, value, sentence):
    file = tmp_path / "ranges.json"
    write_range_table(table, file)
    document = json.loads(file.read_text())
    change(document, path, value)
    file.write_text(json.dumps(document))
    with pytest.raises(BundleError, match=sentence) as caught:
        read_range_table(file)
    assert "\n" not in str(caught.value)


def test_a_number_beyond_float_is_refused(table, tmp_path):
    file = tmp_path / "ranges.json"
    write_range_table(table, file)
    document = json.loads(file.read_text())
    document["tensors"]["decoder.0.zeros"]["amax"]["mse"] = 12345.5
    file.write_text(json.dumps(document).replace("12345.5", "1e999"))
    with pytest.raises(BundleError, match="amax must be finite"):
        read_range_table(file)


def test_files_that_are_not_tables_are_refused(tmp_path):
    with pytest.raises(BundleError, match=r"cannot read the range table .* make one with `pointsman-calib`"):
        read_range_table(tmp_path / "absent.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(BundleError, match="the document must be an object"):
        read_range_table(tmp_path / "list.json")


def test_a_table_that_cannot_be_written_is_said_so(table, tmp_path):
    with pytest.raises(OutputError, match="cannot write the range table"):
        write_range_table(table, tmp_path / "absent" / "ranges.json")

"""Ranges of a bundle's activations: against a numpy model, interrupted and resumed, and what cannot be collected."""

import io
from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
from numpy_reference import ACTIVATIONS, NumpySwitch, softmax
from text import Interrupted, corpus, random_examples

from checkpoints import CHECKPOINTS, weights
from pointsman.bundle import names, read_manifest
from pointsman.errors import BundleError
from pointsman_calib.graphs.runs import PiecewiseRun, graph_files
from pointsman_calib.ranges import corpus_pass
from pointsman_calib.ranges.corpus_pass import SOURCE, collect_ranges, variant_products, write_ranges
from pointsman_calib.ranges.observation import ModelObserver, expert_tensor
from pointsman_calib.ranges.table import read_range_table
from tolerances import LOGITS

LENGTHS = [(9, 4), (30, 11), (2, 2), (17, 8), (12, 6)]


class WatchedSwitch(NumpySwitch):
    """Notes what every weight is multiplied with."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.seen = defaultdict(list)

    def heads(self, hidden, name):
        self.seen[f"{name}.weight"].append(hidden)
        return super().heads(hidden, name)

    def attend(self, hidden, keys, values, bias, name):
        queries = NumpySwitch.heads(self, hidden, f"{name}.q")
        attended = softmax(queries @ keys.swapaxes(1, 2) + bias) @ values
        self.seen[f"{name}.o.weight"].append(attended.swapaxes(0, 1).reshape(len(hidden), -1))
        return super().attend(hidden, keys, values, bias, name)

    def network(self, hidden, name):
        first, *gates = ("wi_0", "wi_1") if self.architecture.gated else ("wi",)
        inner = ACTIVATIONS[self.architecture.activation](hidden @ self.weights[f"{name}.{first}.weight"].T)
        for gate in gates:
            inner = inner * (hidden @ self.weights[f"{name}.{gate}.weight"].T)
        for projection in (first, *gates):
            self.seen[f"{name}.{projection}.weight"].append(hidden)
        self.seen[f"{name}.wo.weight"].append(inner)
        return super().network(hidden, name)


def watched(spec, examples):
    model = WatchedSwitch(spec.architecture, weights(spec), spec.expert_capacity)
    for document in examples:
        states = model.encode(document.inputs.tolist())
        model.decode(states, [0, *document.targets[:-1].tolist()])
    return {name: np.concatenate(rows) for name, rows in model.seen.items()}, model


def check(row, values):
    assert row.count == values.size
    LOGITS.check([row.min, row.max], [values.min(), values.max()])


@pytest.mark.parametrize("name", ["tied", "capacity-2", "gated"])
def test_every_product_is_seen_as_numpy_sees_it(exports, name):
    export, examples = exports(name, "portable"), random_examples(1, LENGTHS)
    table = collect_ranges(export.folder, export.manifest, corpus(examples))
    seen, model = watched(CHECKPOINTS[name], examples)
    assert model.dropped > 0 if name == "capacity-2" else model.dropped == 0
    experts = 0
    for product in variant_products(export.folder, export.manifest.variants[SOURCE]):
        if product.weight in seen:
            check(table.tensors[product.tensor], seen.pop(product.weight))
        elif product.layer is not None:
            projection = product.weight.rpartition(".")[2]
            for expert, tokens in enumerate(table.coverage[product.layer]):
                values = seen.pop(names.expert_weight(product.layer, expert, projection), np.empty(0))
                row = table.tensors[expert_tensor(product.tensor, expert)]
                assert row.count == values.size
                if tokens:
                    assert values.size // tokens in (32, 48)
                    check(row, values)
                    experts += 1
    assert not seen
    assert experts > 8


def test_an_interrupted_collection_goes_on(exports, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_pass, "DOCUMENTS_AT_ONCE", 2)
    folder, examples = exports("tied", "portable").folder, random_examples(2, LENGTHS)
    path = tmp_path / "ranges.json"
    whole = write_ranges(folder, corpus(examples), path)
    path.unlink()
    with pytest.raises(KeyboardInterrupt):
        write_ranges(folder, corpus(Interrupted(examples, 3)), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["ranges.json.partial"]

    asked = []

    class Recorded(list):
        def __getitem__(self, index):
            asked.append(index.start)
            return super().__getitem__(index)

    assert write_ranges(folder, corpus(Recorded(examples)), path) == whole == read_range_table(path)
    assert asked == [2, 4, 5]  # the last is empty
    assert [entry.name for entry in tmp_path.iterdir()] == ["ranges.json"]


@pytest.fixture(scope="module")
def progress(exports, tmp_path_factory) -> bytes:
    """Of four of five documents."""
    path = tmp_path_factory.mktemp("interrupted") / "ranges.json"
    folder, text = exports("tied", "portable").folder, corpus(Interrupted(random_examples(3, LENGTHS), 4))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(corpus_pass, "DOCUMENTS_AT_ONCE", 2)
        with pytest.raises(KeyboardInterrupt):
            write_ranges(folder, text, path)
    return path.with_name("ranges.json.partial").read_bytes()


@pytest.mark.parametrize("other", ["another corpus", "damage", "cut off", "empty", "an array"])
def test_progress_of_something_else_is_not_used(exports, tmp_path, progress, other):
    examples = random_examples(3, LENGTHS)
    path, partial = tmp_path / "ranges.json", tmp_path / "ranges.json.partial"
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    damaged = {"another corpus": progress, "damage": b"not zip", "cut off": progress[:1000]}
    damaged |= {"empty": b"", "an array": array.getvalue()}
    partial.write_bytes(damaged[other])
    if other == "another corpus":
        examples = examples[::-1]
    table = write_ranges(exports("tied", "portable").folder, corpus(examples), path)
    assert table.provenance.sequences == len(LENGTHS)
    assert not partial.exists()


def test_the_table_does_not_depend_on_the_order_of_documents(exports):
    export, examples = exports("tied", "portable"), random_examples(4, LENGTHS)
    forwards, backwards = (
        collect_ranges(export.folder, export.manifest, corpus(order)) for order in (examples, examples[::-1])
    )
    assert forwards == backwards
    assert forwards.provenance.source_tokens == sum(source for source, _ in LENGTHS)
    assert forwards.provenance.target_tokens == sum(target for _, target in LENGTHS)


def test_what_is_kept_does_not_grow(exports):
    export = exports("tied", "portable")
    variant = export.manifest.variants[SOURCE]
    observer = ModelObserver(variant_products(export.folder, variant), export.manifest.architecture, 64)
    text, sizes = corpus(random_examples(5, LENGTHS)), []
    for document in text.batches(export.manifest.architecture, 1):
        run = PiecewiseRun(graph_files(export.folder, variant), variant, lambda document=document: [document])
        corpus_pass._observe(observer, run, [document])
        sizes.append(sum(array.nbytes for array in observer.state().values()))
    assert all(before == after for before, after in pairwise(sizes))


def test_a_bundle_without_the_portable_form_is_refused(exports, tmp_path):
    folder = exports("tied", "fused").folder
    with pytest.raises(
        BundleError,
        match="has no portable-float32 variant to run; export it with `pointsman-export bundle --form portable",
    ):
        write_ranges(folder, corpus(random_examples(6, LENGTHS)), tmp_path / "ranges.json")
    assert not list(tmp_path.iterdir())
    assert set(read_manifest(folder).variants) == {"fused-float32"}

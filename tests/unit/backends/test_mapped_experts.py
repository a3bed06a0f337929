"""Experts that stay in their file: the same answers, from what was changed in the graphs to what is given back."""

import mmap
import pickle
import shutil
import sys
import threading
from dataclasses import replace

import numpy as np
import onnx
import pytest
from last_bits import INPUTS, PLENTY, answers, branches

from pointsman import DecodingOptions, SwitchModel
from pointsman.backends import open_backend
from pointsman.backends.choice import Choice
from pointsman.backends.onnxruntime import backend as loading
from pointsman.backends.onnxruntime.models.mapped_experts import with_mapped_experts
from pointsman.backends.onnxruntime.models.tensors import Stored
from pointsman.backends.onnxruntime.weights import mapped_loading, residency
from pointsman.backends.onnxruntime.weights.residency import NewMappings, ResidentWeights
from pointsman.bundle import read_manifest
from pointsman.errors import BundleError, DeviceError, OptionsError
from pointsman_calib import quantize

MIB = 1 << 20


@pytest.fixture(scope="module")
def bundle(exports, tmp_path_factory):
    folder = shutil.copytree(exports("all-sparse").folder, tmp_path_factory.mktemp("mapped") / "bundle")
    quantize(folder, "int8")
    return folder


def load(bundle, variant="fused-int8", **options):
    return SwitchModel.load(bundle, "cpu", variant, threads=1, **options)


@pytest.mark.parametrize("routing", [False, True])
@pytest.mark.parametrize("products", ["this processor's", "in parts"])
def test_answers_are_equal_to_the_last_bit(bundle, routing, products, monkeypatch):
    if products == "in parts":
        monkeypatch.setattr(mapped_loading, "products_saturate", lambda: True)
    with load(bundle) as whole, load(bundle, max_memory=PLENTY, routing=routing) as mapped:
        assert answers(mapped) == answers(whole)


def test_answers_are_equal_when_experts_come_and_go(bundle, monkeypatch):
    """The limit is of what there is at this moment, so that experts are given back at every look."""
    found = []
    monkeypatch.setattr(loading, "keep_trimmed", lambda weights, owner, mapped_by: found.append(weights))
    with load(bundle) as whole, load(bundle, max_memory=PLENTY) as mapped:
        (weights,) = found
        weights.most_bytes = 1
        expected, tokens = answers(whole), []
        for events in mapped.stream([INPUTS[0]], DecodingOptions(max_new_tokens=12)):
            weights._stuck = 0
            weights.trim()
            assert not any(weights._is_present(weight.address) for weight in weights._weights)
            tokens += [event.token_id for event in events]
        assert tuple(tokens) == tuple(expected[0][0][0])[: len(tokens)]
        assert len(tokens) > 2
        assert answers(mapped) == expected


def test_only_what_tokens_reach_is_read(bundle, monkeypatch):
    found = []
    monkeypatch.setattr(loading, "keep_trimmed", lambda weights, owner, mapped_by: found.append(weights))
    model = load(bundle, max_memory=PLENTY)
    (weights,) = found
    assert len(weights._weights) == 2 * 6 * model.manifest.architecture.num_experts
    assert not any(weights._is_present(weight.witness) for weight in weights._weights)
    model.encode([[5, 1]], rows=1)
    read = sum(weights._is_present(weight.witness) for weight in weights._weights)
    assert 2 * 3 <= read <= 2 * 3 * 2  # of each encoder layer, the experts of at most two tokens


def test_graphs_differ_in_the_inputs_of_branches_alone(bundle):
    variant = read_manifest(bundle).variants["fused-int8"]
    for graph in (variant.encoder, variant.decoder):
        original = (bundle / graph.file).read_bytes()
        changed, stored = with_mapped_experts(original, saturates=False)
        model, places = onnx.ModelProto.FromString(changed), []
        for branch in branches(model.graph):
            assert [value.name for value in branch.input] == [tensor.name for tensor in branch.initializer]
            assert {value.type.tensor_type.elem_type for value in branch.input} <= {onnx.TensorProto.INT8}
            said = [{entry.key: entry.value for entry in tensor.external_data} for tensor in branch.initializer]
            places += [Stored(int(each.get("offset", 0)), int(each["length"])) for each in said]
            del branch.input[:]
        assert len(places) == 2 * 3 * read_manifest(bundle).architecture.num_experts
        assert sorted(stored, key=lambda one: one.offset) == sorted(places, key=lambda one: one.offset)
        assert model == onnx.ModelProto.FromString(original)


class Mapped:
    """Weights of a file of this process, of 16 MiB each."""

    def __init__(self, folder, count):
        self.path = folder / "weights in  a\nfile"
        with self.path.open("wb") as file:
            file.truncate(count * 16 * MIB)
        self.stored = [Stored(number * 16 * MIB, 16 * MIB) for number in range(count)]
        mappings = NewMappings(self.path)
        with mappings, self.path.open("rb") as file:
            self.memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        self.array = np.frombuffer(self.memory, np.uint8)
        self.weights = ResidentWeights(mappings.addresses(self.stored), PLENTY)

    def read(self, *numbers):
        for number in numbers:
            place = self.stored[number]
            assert not self.array[place.offset : place.offset + place.length].any()

    def kept(self):
        """Which are in memory, but for the page that tells of reading."""
        weights = self.weights
        return [number for number, weight in enumerate(weights._weights) if weights._is_present(weight.address)]


def test_those_not_read_for_longest_go_first(tmp_path, monkeypatch):
    """In a process that has nothing else: how much is given back at once is a part of all that it has."""
    mapped = Mapped(tmp_path, 8)
    weights = mapped.weights
    monkeypatch.setattr(residency, "resident_bytes", lambda: 16 * MIB * len(mapped.kept()))
    mapped.read(*range(8))
    weights.trim()
    assert mapped.kept() == [*range(8)]
    weights.most_bytes = 8 * 16 * MIB - MIB
    weights.trim()
    assert len(mapped.kept()) == 7
    oldest, second, *_ = mapped.kept()
    mapped.read(oldest)
    weights.most_bytes = 7 * 16 * MIB - MIB
    weights.trim()
    assert oldest in mapped.kept()
    assert second not in mapped.kept()
    mapped.read(*range(8))  # and nothing was lost


def test_what_cannot_be_reached_is_not_tried_again_and_again(tmp_path, monkeypatch):
    mapped = Mapped(tmp_path, 2)
    mapped.read(0, 1)
    mapped.weights.most_bytes = 1
    mapped.weights.trim()
    assert mapped.kept() == []
    monkeypatch.setattr(mapped.weights, "_look", lambda: pytest.fail("looked"))
    mapped.weights.trim()


def test_a_thread_trims_while_its_owner_lives(tmp_path):
    mapped = Mapped(tmp_path, 2)
    mapped.read(0, 1)
    mapped.weights.most_bytes = 1

    class Owner:
        pass

    owner = Owner()
    before = threading.active_count()
    residency.keep_trimmed(mapped.weights, owner, mapped_by=mapped)
    assert threading.active_count() == before + 1
    for _ in range(500):
        if not mapped.kept():
            break
        threading.Event().wait(0.01)
    assert mapped.kept() == []
    del owner
    assert threading.active_count() == before


def test_closing_ends_the_thread(bundle):
    before = threading.active_count()
    model = load(bundle, max_memory=PLENTY)
    assert threading.active_count() == before + 1
    model.close()
    assert threading.active_count() == before


def test_a_copy_by_pickle_has_the_limit_too(bundle):
    with load(bundle, max_memory=PLENTY) as model:
        _, arguments = model.__reduce__()
        assert arguments == ()
        assert model._load_again.keywords["max_memory"] == PLENTY
        with pickle.loads(pickle.dumps(model)) as copy:
            assert copy.choice.variant == "fused-int8"


def test_without_a_limit_experts_are_in_memory_once(bundle, monkeypatch):
    """They are laid out anew in anonymous memory; of the file's pages, none is left when all is loaded."""
    found = []
    leave = NewMappings.__exit__
    monkeypatch.setattr(NewMappings, "__exit__", lambda self, *error: found.append(self) or leave(self, *error))
    expected = answers(load(bundle))
    model = load(bundle)
    pages = ResidentWeights([(start, end - start) for start, end, _ in found[-1]._mapped], PLENTY)
    assert len(pages._weights) > 2 * 6 * model.manifest.architecture.num_experts
    assert not any(pages._is_present(weight.address) for weight in pages._weights)
    assert answers(model) == expected


def test_a_system_that_does_not_tell_what_is_mapped(bundle, monkeypatch, tmp_path):
    """As in a sandbox without /proc: what was read stays in memory, and no more."""
    expected = answers(load(bundle))
    monkeypatch.setattr(residency, "_MAPS", tmp_path / "maps")
    for _ in range(2):
        assert answers(load(bundle)) == expected
    with pytest.raises(DeviceError, match="leave max_memory out"):
        load(bundle, max_memory=PLENTY)


@pytest.mark.parametrize("call", [1, 2])
def test_a_load_that_fails_is_in_nobody_s_way(bundle, monkeypatch, call):
    calls = []

    def failing(_):
        calls.append(1)
        if len(calls) == call:
            raise MemoryError
        return []

    with monkeypatch.context() as once:
        once.setattr(NewMappings, "_now", failing)
        with pytest.raises(MemoryError):
            load(bundle)
    assert not residency._LOADING.locked()


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "6G"])
def test_limits_that_are_none(bundle, limit):
    with pytest.raises(OptionsError, match=r"max_memory is .*; use a whole number of bytes$"):
        load(bundle, max_memory=limit)


def test_other_variants_are_refused(bundle):
    with pytest.raises(OptionsError, match=r"for the variant fused-int8, .* not for fused-float32; ask for fused-int8"):
        load(bundle, "auto", max_memory=PLENTY)


def test_a_gpu_is_refused(bundle):
    manifest, choice = read_manifest(bundle), Choice("fused-int8", "cuda", "it is a test")
    with pytest.raises(OptionsError, match="max_memory is for the CPU; use device 'cpu', or leave it out"):
        open_backend(bundle, manifest, choice, threads=1, verify=False, max_memory=PLENTY)
    plans = replace(choice, engine="tensorrt")
    with pytest.raises(OptionsError, match="max_memory is for the CPU"):
        open_backend(bundle, manifest, plans, threads=1, verify=False, max_memory=PLENTY)


def test_a_limit_below_what_must_stay_is_refused(bundle):
    with pytest.raises(DeviceError, match=r"max_memory is 1 MB, and what must stay takes [\d,]+ MB .*; give more$"):
        load(bundle, max_memory=10**6)


def test_other_systems_are_refused(bundle, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(DeviceError, match="max_memory is possible on Linux only; leave it out"):
        load(bundle, max_memory=PLENTY)


def test_an_engine_that_does_not_map_is_refused(bundle, monkeypatch):
    monkeypatch.setattr(NewMappings, "addresses", lambda self, stored: [])
    with pytest.raises(DeviceError, match=r"ONNX Runtime \S+ maps 0 of the \d+ weights of experts here"):
        load(bundle, max_memory=PLENTY)


def test_a_variant_without_experts_in_branches_is_refused(bundle):
    """As those that earlier versions quantized: nothing would be left in the file, and nobody told."""
    manifest = read_manifest(bundle)
    with pytest.raises(BundleError, match=r"no expert of the variant can stay in its file.*quantize it again"):
        mapped_loading.with_experts_mapped(bundle, manifest.variants["fused-float32"], pytest.fail, PLENTY)

"""The parity check of an export notices every kind of damage between the checkpoint and what was written."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from checkpoints import CHECKPOINTS, expressible, write_checkpoint
from exports import FORMS
from pointsman.bundle import names
from pointsman.errors import ParityError
from pointsman_export.architecture import derive_from
from pointsman_export.bundle import export_bundle
from pointsman_export.checkpoint import CanonicalReader, Checkpoint
from pointsman_export.network import Build, Precision
from pointsman_export.verify.parity import TOLERANCES, Written, verify
from pointsman_export.verify.sample import AT_A_TIME, Experts, Sample

Damage = Callable[[bytearray, dict[str, ir.ExternalTensor]], None]


def checked(export, folder: Path, form: str, experts: Experts = "sample"):
    """Verify the written graphs in `folder` against the checkpoint."""
    variant = export.manifest.variants[f"{form}-float32"]
    with Checkpoint.open(export.checkpoint) as checkpoint:
        derivation = derive_from(checkpoint)
        build = Build(derivation.architecture, form, Precision.of("float32"), variant.capacity)
        reader = CanonicalReader(checkpoint, derivation.names)
        seen: list[str] = []
        written = Written(build, folder / variant.encoder.file, folder / variant.decoder.file)
        (parity,) = verify([written], reader, progress=seen.append, experts=experts)
        return parity, seen


def damaged(export, folder: Path, damage: Damage) -> Path:
    """A copy whose weights are damaged after they were written."""
    copy = shutil.copytree(export.folder, folder / "copy")
    tensors = {
        name: value.const_value
        for side in ("encoder", "decoder")
        for name, value in ir.load(export.graph(side)).graph.initializers.items()
        if isinstance(value.const_value, ir.ExternalTensor)
    }
    stacks = [name for name in tensors if names.expert_of(name) is None and names.experts_layer(name)]
    tensors |= {name: part for stack in stacks for name, part in experts_of(stack, tensors[stack])}
    (weights,) = copy.glob("variants/*/weights.bin")
    content = bytearray(weights.read_bytes())
    damage(content, tensors)
    weights.write_bytes(content)
    return copy


def experts_of(stack: str, tensor: ir.ExternalTensor) -> Iterator[tuple[str, ir.ExternalTensor]]:
    """The weights of each expert, under the names that they have in the fused form."""
    experts, *shape = tuple(tensor.shape)
    length = tensor.nbytes // experts
    layer, _, projection = stack.rpartition(".experts.")
    for number in range(experts):
        name = names.expert_weight(layer, number, projection)
        offset = tensor.offset + number * length
        yield name, ir.ExternalTensor(tensor.location, offset, length, tensor.dtype, shape=ir.Shape(shape), name=name)


def floats(content: bytearray, tensor: ir.ExternalTensor) -> np.ndarray:
    """A tensor in place, to be written to."""
    size = int(np.prod(tuple(tensor.shape)))
    return np.frombuffer(memoryview(content), np.float32, size, tensor.offset).reshape(tuple(tensor.shape))


def one_byte(name: str) -> Damage:
    """Flip the exponent's second highest bit of a weight that is not tiny."""

    def damage(content: bytearray, tensors: dict[str, ir.ExternalTensor]) -> None:
        values = floats(content, tensors[name])
        content[tensors[name].offset + 4 * int(np.abs(values).argmax()) + 3] ^= 0x08

    return damage


def not_a_number(name: str) -> Damage:
    def damage(content: bytearray, tensors: dict[str, ir.ExternalTensor]) -> None:
        floats(content, tensors[name]).flat[5] = np.nan

    return damage


def not_turned_around(name: str) -> Damage:
    """The checkpoint's own orientation under the shape of the other."""

    def damage(content: bytearray, tensors: dict[str, ir.ExternalTensor]) -> None:
        values = floats(content, tensors[name])
        values[:] = values.T.reshape(values.shape).copy()

    return damage


def swapped(first: str, second: str) -> Damage:
    def damage(content: bytearray, tensors: dict[str, ir.ExternalTensor]) -> None:
        one, other = floats(content, tensors[first]), floats(content, tensors[second])
        one[:], other[:] = other.copy(), one.copy()

    return damage


MLP = "encoder.block.1.layer.1.mlp"
DAMAGES: dict[str, tuple[Damage, str]] = {
    "byte of a query projection": (one_byte("encoder.block.0.layer.0.SelfAttention.q.weight"), r"encoder\.block\.0"),
    "byte of a decoder's projection": (
        one_byte("decoder.block.2.layer.0.SelfAttention.v.weight"),
        r"decoder\.block\.2|present_value\.2",
    ),
    "byte of a cross key": (one_byte("decoder.block.1.layer.1.EncDecAttention.k.weight"), r"cross_key\.1"),
    "byte of a cross value": (one_byte("decoder.block.3.layer.1.EncDecAttention.v.weight"), r"cross_value\.3"),
    "byte of a norm": (one_byte("encoder.block.2.layer.1.layer_norm.weight"), r"encoder\.block\.2"),
    "byte of the encoder's last norm": (one_byte("encoder.final_layer_norm.weight"), r"cross_(key|value)\.\d"),
    "byte of the decoder's last norm": (one_byte("decoder.final_layer_norm.weight"), "logits"),
    "byte of a dense network": (one_byte("decoder.block.0.layer.2.mlp.wo.weight"), r"decoder\.block\.0"),
    "relative bias": (
        swapped(
            *(f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight" for side in ("encoder", "decoder"))
        ),
        r"(en|de)coder\.block\.\d",
    ),
    "embedding": (not_turned_around("shared.weight"), r".*block\.0|logits|present_(key|value)\.0"),
    "NaN": (not_a_number("encoder.block.0.layer.1.mlp.wi.weight"), r"encoder\.block\.0"),
    "NaN in the head": (not_a_number("shared.weight"), "logits"),
    "no transpose": (not_turned_around("encoder.block.0.layer.1.mlp.wi.weight"), r"encoder\.block\.0"),
    "no transpose of a square": (
        not_turned_around("encoder.block.1.layer.0.SelfAttention.o.weight"),
        r"encoder\.block\.1",
    ),
    "keys for values": (
        swapped(*(f"encoder.block.3.layer.0.SelfAttention.{name}.weight" for name in "kv")),
        r"encoder\.block\.3",
    ),
}
# Of an expert that has tokens: its number comes from the sample.
EXPERT_DAMAGES: dict[str, Callable[[list[int]], Damage]] = {
    "byte of an expert": lambda hit: one_byte(f"{MLP}.experts.expert_{hit[0]}.wo.weight"),
    "byte of another expert": lambda hit: one_byte(f"{MLP}.experts.expert_{hit[1]}.wi.weight"),
    "swapped experts": lambda hit: swapped(*(f"{MLP}.experts.expert_{number}.wi.weight" for number in hit[:2])),
    "expert not transposed": lambda hit: not_turned_around(f"{MLP}.experts.expert_{hit[1]}.wo.weight"),
    "NaN in an expert": lambda hit: not_a_number(f"{MLP}.experts.expert_{hit[0]}.wo.weight"),
}


def experts_compared(export, experts: Experts = "sample") -> list[list[int]]:
    """Experts of the damaged layer that the sample sends tokens to at a time."""
    build = Build(export.spec.architecture, "fused", Precision.of("float32"), None)
    return [np.unique(assigned).tolist() for assigned in Sample.draw(build, experts).assignments(MLP, 2, 24)]


def refused(export, tmp_path: Path, form: str, damage: Damage, value: str) -> None:
    with pytest.raises(ParityError) as raised:
        checked(export, damaged(export, tmp_path, damage), form)
    sentence = str(raised.value)
    assert re.search(
        rf"do not compute what the checkpoint does: (?:{value})(?:\.attended)? is off by (?:\d\S*|inf) \(toler",
        sentence,
    )
    assert sentence.endswith("; nothing was written, please report this")
    assert "\n" not in sentence
    assert raised.value.exit_code == 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("damage", "value"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_named_by_the_value_that_shows_it(exports, tmp_path, form, damage, value):
    refused(exports("tied", form), tmp_path, form, damage, value)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("damage", EXPERT_DAMAGES.values(), ids=EXPERT_DAMAGES.keys())
def test_damage_of_experts_that_are_compared(exports, tmp_path, form, damage):
    export = exports("tied", form)
    (compared,) = experts_compared(export)
    assert len(compared) == AT_A_TIME
    refused(export, tmp_path, form, damage(compared), r"encoder\.block\.1")


@pytest.mark.parametrize("form", FORMS)
def test_all_experts_are_compared_where_that_is_asked_for(exports, tmp_path, form):
    """The sample leaves some out, and passes what is wrong with them."""
    export = exports("tied", form)
    sampled, others = experts_compared(export, "all")
    assert sorted([*sampled, *others]) == list(range(export.spec.num_experts))
    copy = damaged(export, tmp_path, one_byte(f"{MLP}.experts.expert_{others[0]}.wo.weight"))
    parity, _ = checked(export, copy, form)
    assert parity.reference.endswith(", 4 of 8 experts of each layer")
    with pytest.raises(ParityError, match=r"encoder\.block\.1 is off by"):
        checked(export, copy, form, "all")
    parity, _ = checked(export, export.folder, form, "all")
    assert parity.reference.endswith(", all 8 experts of each layer")


@pytest.mark.parametrize(("rows", "tokens"), [(2, 24), (2, 4), (4, 3)])
@pytest.mark.parametrize("experts", [1, 3, 4, 8, 10])
def test_every_expert_is_assigned_once_and_one_has_a_whole_row(exports, rows, tokens, experts):
    build = Build(exports("tied", "fused").spec.architecture, "fused", Precision.of("float32"), None)
    sample = replace(Sample.draw(build, "all"), num_experts=experts)
    assignments = list(sample.assignments("a.layer", rows, tokens))
    assert sorted(number for each in assignments for number in np.unique(each)) == list(range(experts))
    assert all(each.shape == (rows, tokens) and len(np.unique(each[1])) == 1 for each in assignments)


def test_another_choice_of_experts_is_noticed(exports, tmp_path):
    """Of the router, agreement is all that counts: what experts do is compared apart from it."""
    export = exports("tied", "portable")
    damage = not_turned_around(f"{MLP}.router.classifier.weight")
    with pytest.raises(ParityError, match=r"experts agree on \d\d?\.\d% of tokens"):
        checked(export, damaged(export, tmp_path, damage), "portable")


@pytest.mark.parametrize("form", FORMS)
def test_undamaged_graphs_pass_and_every_block_is_compared_once(exports, form):
    export = exports("tied", form)
    parity, seen = checked(export, export.folder, form)
    assert parity == export.manifest.variants[f"{form}-float32"].parity
    assert 0 < parity.max_error < TOLERANCES["float32"] == parity.tolerance
    assert parity.expert_agreement == 1.0
    assert seen == [
        *(f"encoder.block.{i}" for i in range(4)),
        *(f"cross_key.{i}" for i in range(4)),
        *(f"decoder.block.{i}" for i in range(4)),
        "logits",
    ]


def test_the_checkpoints_without_a_reference_in_transformers_are_verified_too(exports):
    assert not expressible(CHECKPOINTS["gated"])
    parity = exports("gated", "fused", capacity=2).manifest.variants["fused-float32"].parity
    assert 0 < parity.max_error < parity.tolerance


@pytest.mark.parametrize(
    ("gated", "activation"), [(False, "gelu"), (False, "gelu_new"), (False, "silu"), (True, "silu")]
)
def test_every_activation_passes_in_both_forms(tmp_path, gated, activation):
    """Those that no checkpoint of these tests has."""
    folder = write_checkpoint(tmp_path / "checkpoint", CHECKPOINTS["tied"], gated=gated, tokenizer=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dense_act_fn": activation}))
    manifest = export_bundle(folder, tmp_path / "bundle")
    assert manifest.architecture.activation == {"gelu_new": "gelu_tanh"}.get(activation, activation)
    assert len(manifest.variants) == len(FORMS)
    assert all(variant.parity.max_error < variant.parity.tolerance for variant in manifest.variants.values())


class Counting:
    """A checkpoint that counts what is read of it."""

    def __init__(self, reader: CanonicalReader) -> None:
        self.reader, self.reads = reader, Counter()

    def read(self, name: str) -> np.ndarray:
        self.reads[name] += 1
        return self.reader.read(name)


def test_two_forms_are_compared_in_one_pass_of_the_reference(exports):
    """Nothing is read again for the second form; the embedding serves both look-ups and the tied head."""
    written, reads = [], []
    for form in FORMS:
        export = exports("tied", form)
        build = Build(export.spec.architecture, form, Precision.of("float32"), export.spec.expert_capacity)
        written.append(Written(build, export.graph("encoder"), export.graph("decoder")))
    with Checkpoint.open(export.checkpoint) as checkpoint:
        reader = CanonicalReader(checkpoint, derive_from(checkpoint).names)
        for variants in (written[:1], written):
            counting = Counting(reader)
            parities = verify(variants, counting, progress=lambda _: None)
            reads.append(counting.reads)
    assert len(parities) == len(FORMS)
    assert reads[0] == reads[1]
    assert reads[0].pop("shared.weight") == 3
    assert {name for name, count in reads[0].items() if count > 1} == set()

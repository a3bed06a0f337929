"""Logits of every form of every architecture, with and without drops, against a plain numpy model and each other.

First the numpy model is held to transformers on all that transformers can express.
"""

from functools import cache
from itertools import product

import numpy as np
import pytest
import torch

from checkpoints import CHECKPOINTS, expressible, reference, weights, write_checkpoint
from exports import FORMS
from parity.numpy_reference import NumpySwitch, bucket
from pointsman.backends.onnxruntime.session import session
from pointsman.bundle import attending, cache_positions, empty_cache, names
from pointsman.errors import DeviceError
from pointsman.model import SwitchModel
from pointsman.running import padded
from pointsman_export.network import relative_buckets
from tolerances import DEFINITION, FLOAT16_LOGITS, LEAST_FLOAT16_AGREEMENT, LOGITS, NEAR_TIE
from tolerances import FORMS as BETWEEN_FORMS

RNG = np.random.default_rng(0)
SOURCES = [RNG.integers(2, 128, size).tolist() for size in (3, 12, 7, 40)]
TARGETS = [[0, *RNG.integers(2, 128, 9).tolist()] for _ in SOURCES]
LONG = RNG.integers(2, 128, 300).tolist()  # past the relative positions' last bucket and the experts' capacity of 64

# In the fast run every architecture as it is published, and kinds of layers with and without drops.
FAST = {
    **{(name, "reference"): FORMS for name in CHECKPOINTS},
    ("tied", 2): FORMS,
    ("gated", "none"): FORMS,
    ("gated", 2): FORMS,
}
CASES = [
    pytest.param(
        *case, form, id="-".join(map(str, (*case, form))), marks=() if form in FAST.get(case, ()) else pytest.mark.slow
    )
    for case in product(CHECKPOINTS, ("reference", "none", 2))
    for form in FORMS
]
pytestmark = pytest.mark.filterwarnings("error")


def plain(name: str, capacity: int | str | None = "reference") -> NumpySwitch:
    """The numpy model of a checkpoint."""
    spec = CHECKPOINTS[name]
    limit = {"reference": spec.expert_capacity, "none": None}.get(capacity, capacity)
    return NumpySwitch(spec.architecture, {k: v.float().numpy() for k, v in weights(spec).items()}, limit)


@cache
def expected(name: str, capacity: int | str, how: str) -> tuple[list[np.ndarray], int]:
    """Logits of all targets, fed at once or one by one, and how many tokens were dropped."""
    model = plain(name, capacity)
    logits = [
        model.decode(model.encode(source), *([target] if how == "at once" else [[token] for token in target]))
        for source, target in zip(SOURCES, TARGETS, strict=True)
    ]
    assert model.narrowest_choice > NEAR_TIE.bound, "the sample has a token with no clear expert; draw another"
    return logits, model.dropped


def drops(name: str, capacity: int | str) -> bool:
    """Whether the sample is long enough for tokens to be dropped."""
    return (CHECKPOINTS[name].expert_capacity if capacity == "reference" else capacity) == 2


def state_of(model: SwitchModel, sources: list[list[int]], beams: int = 1):
    return model.encode(sources, rows=len(sources) * beams)


def own_rows(count: int) -> np.ndarray:
    return np.arange(count)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (32, 20), (8, 64)])
def test_buckets_are_those_of_the_scalar_definition_and_of_transformers(bidirectional, buckets, max_distance):
    from transformers.models.switch_transformers.modeling_switch_transformers import SwitchTransformersAttention

    options = {"bidirectional": bidirectional, "max_distance": max_distance}
    distances = torch.arange(-300, 301)
    plain = [bucket(int(distance), buckets=buckets, **options) for distance in distances]
    theirs = SwitchTransformersAttention._relative_position_bucket(distances, num_buckets=buckets, **options)
    assert plain == theirs.tolist()
    assert relative_buckets(distances, buckets=buckets, **options).tolist() == plain


@pytest.mark.parametrize("name", [name for name, spec in CHECKPOINTS.items() if expressible(spec)])
def test_the_numpy_model_is_transformers(tmp_path, name):
    network = reference(write_checkpoint(tmp_path, CHECKPOINTS[name])).double()
    model = plain(name)
    for source, target in [*zip(SOURCES, TARGETS, strict=True), (LONG[:200], LONG[100:240])]:
        with torch.no_grad():
            theirs = network(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([target])).logits[0]
        DEFINITION.check(model.decode(model.encode(source), target), theirs, name)
    assert model.narrowest_choice > 0
    if name == "capacity-2":
        assert model.dropped > 100


@pytest.mark.parametrize(("name", "capacity", "form"), CASES)
def test_logits_of_all_positions_at_once(exports, name, capacity, form):
    logits, dropped = expected(name, capacity, "at once")
    got = state_of(exports.model(name, form, capacity=capacity), SOURCES).step(np.array(TARGETS), own_rows(4))
    for row, wanted in zip(got, logits, strict=True):
        LOGITS.check(row, wanted, f"{name}, capacity {capacity}, {form}")
    assert bool(dropped) == drops(name, capacity)


@pytest.mark.parametrize(("name", "capacity", "form"), CASES)
def test_logits_step_by_step(exports, name, capacity, form):
    logits, _ = expected(name, capacity, "one by one")
    state = state_of(exports.model(name, form, capacity=capacity), SOURCES)
    steps = [state.step(np.array(TARGETS)[:, [position]], own_rows(4)).copy() for position in range(len(TARGETS[0]))]
    for row, wanted in zip(np.concatenate(steps, axis=1), logits, strict=True):
        LOGITS.check(row, wanted, f"{name}, capacity {capacity}, {form}")


@pytest.mark.parametrize(("name", "capacity", "form"), [case for case in CASES if case.values[1] == "none"])
def test_without_a_capacity_it_does_not_matter_how_positions_are_cut(exports, name, capacity, form):
    model = exports.model(name, form, capacity="none")
    tokens = np.array(TARGETS)
    together = state_of(model, SOURCES).step(tokens, own_rows(4))
    for cuts in ([*range(1, 10)], [3, 4, 8], [7]):
        state = state_of(model, SOURCES)
        calls = [state.step(part, own_rows(4)).copy() for part in np.split(tokens, cuts, axis=1)]
        BETWEEN_FORMS.check(np.concatenate(calls, axis=1), together, f"{name}, {form}, cut at {cuts}")


@pytest.mark.parametrize(("name", "capacity", "form"), CASES)
def test_beams_that_continue_other_beams(exports, name, capacity, form):
    """Four steps of three beams an input, each step continuing any beams of its input, also the same one twice."""
    rng, beams = np.random.default_rng(1), 3
    model, oracle = exports.model(name, form, capacity=capacity), plain(name, capacity)
    sources = SOURCES[:2]
    state = state_of(model, sources, beams)
    prefixes: list[list[int]] = [[] for _ in range(beams * len(sources))]
    for step in range(4):
        rows = rng.integers(0, beams, len(prefixes)) + np.repeat([0, beams], beams)
        tokens = rng.integers(2, 128, len(prefixes))
        parents = own_rows(len(prefixes)) if step == 0 else rows
        prefixes = [[*prefixes[parent], int(token)] for parent, token in zip(parents, tokens, strict=True)]
        got = state.step(tokens[:, None], parents)[:, -1]
    states = [oracle.encode(source) for source in sources]
    wanted = [oracle.decode(states[row // beams], *([t] for t in prefix))[-1] for row, prefix in enumerate(prefixes)]
    LOGITS.check(got, wanted, f"{name}, capacity {capacity}, {form}")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["tied", "gated", "capacity-2"])
def test_rows_of_different_ages_and_different_numbers_share_a_step(exports, name, form):
    """Rows of three inputs, which begin one after the other; one input has three of them, out of order."""
    model, oracle, bundle = exports.model(name, form), plain(name), exports(name, form).folder
    inputs, begins, tokens = np.array([0, 1, 1, 2, 1]), np.array([0, 3, 1, 0, 5]), 6
    sources, targets = SOURCES[:3], np.random.default_rng(2).integers(2, 128, (len(inputs), tokens))
    (variant,) = model.manifest.variants.values()
    ids, mask = padded(sources, pad_id=0)
    encoder, decoder = (session(bundle / graph.file, "cpu", 1) for graph in (variant.encoder, variant.decoder))
    encoded = encoder.run(None, {names.INPUT_IDS: ids, names.ATTENTION_MASK: mask})
    heads = model.manifest.architecture.num_heads
    fixed = {names.ATTENTION_MASK: mask, **attending(inputs, len(sources), heads=heads), **cache_positions(32)}
    fixed |= {spec.name: value for spec, value in zip(variant.encoder.outputs, encoded, strict=True)}
    cache, lengths = empty_cache(variant.decoder.inputs, len(inputs), 32), np.zeros(len(inputs), np.int64)
    got: list[list[np.ndarray]] = [[] for _ in inputs]
    for step in range(max(begins) + tokens):
        running = np.flatnonzero((begins <= step) & (lengths < tokens))
        fed = np.full((len(inputs), 1), 99)  # to rows that are not there: the next token is written over it
        fed[running, 0] = targets[running, lengths[running]]
        logits, *present = decoder.run(None, {names.INPUT_IDS: fed, names.LENGTHS: lengths, **fixed, **cache})
        cache = dict(zip(cache, present, strict=True))
        for row in running:
            got[row].append(logits[row, 0])
        lengths[running] += 1
    for row, (number, target) in enumerate(zip(inputs, targets, strict=True)):
        wanted = oracle.decode(oracle.encode(sources[number]), *([token] for token in target))
        LOGITS.check(np.stack(got[row]), wanted, f"{name}, {form}, row {row}")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["tied", "gated"])
def test_sequences_longer_than_the_capacity_and_the_last_bucket(exports, name, form):
    oracle = plain(name)
    source, target = LONG, [0, *LONG[:199]]
    got = state_of(exports.model(name, form), [source]).step(np.array([target]), own_rows(1))
    LOGITS.check(got[0], oracle.decode(oracle.encode(source), target), f"{name}, {form}")
    assert oracle.dropped > 0


@pytest.mark.parametrize(
    ("name", "capacity"),
    [
        pytest.param(*case, marks=() if FAST.get(case) == FORMS else pytest.mark.slow)
        for case in product(CHECKPOINTS, ("reference", "none", 2))
    ],
)
def test_forms_agree(exports, name, capacity):
    fused, portable = (
        state_of(exports.model(name, form, capacity=capacity), SOURCES).step(np.array(TARGETS), own_rows(4))
        for form in FORMS
    )
    BETWEEN_FORMS.check(portable, fused, f"{name}, capacity {capacity}")
    assert (portable.argmax(-1) == fused.argmax(-1)).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["tied", "gated"])
def test_an_inputs_logits_do_not_depend_on_its_neighbours(exports, name, form):
    model = exports.model(name, form)
    together = state_of(model, SOURCES).step(np.array(TARGETS), own_rows(4))
    for source, target, row in zip(SOURCES, TARGETS, together, strict=True):
        BETWEEN_FORMS.check(state_of(model, [source]).step(np.array([target]), own_rows(1))[0], row)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["tied", "gated"])
def test_float16_against_float32(exports, name, form):
    """Of the nearer half of positions: where rounding sends a token to another expert, all that follows differs."""
    exact, half = (
        state_of(exports.model(name, form, dtype=dtype), SOURCES).step(np.array(TARGETS), own_rows(4))
        for dtype in ("float32", "float16")
    )
    errors = np.abs(half - exact).max(axis=-1)
    nearer = errors <= np.median(errors)
    FLOAT16_LOGITS.check(half[nearer], exact[nearer], f"{name}, {form}")
    assert (half.argmax(-1) == exact.argmax(-1)).mean() >= LEAST_FLOAT16_AGREEMENT


def test_bfloat16_does_not_run_on_the_cpu_and_says_so(exports):
    bundle = exports("tied", "portable", dtype="bfloat16").folder
    with pytest.raises(DeviceError) as raised:
        SwitchModel.load(bundle, device="cpu", variant="portable-bfloat16")
    assert str(raised.value) == (
        "ONNX Runtime does not run bfloat16 on the CPU; use another variant than portable-bfloat16, or device 'cuda'"
    )


def test_padding_is_on_the_right():
    ids, mask = padded([[5, 6, 7], [8]], pad_id=0)
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]

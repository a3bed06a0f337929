"""The routers' choices that a model shows, against a plain numpy model; and that showing them changes nothing."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from checkpoints import CHECKPOINTS, weights
from parity.numpy_reference import NumpySwitch
from pointsman import DecodingOptions, OptionsError, SwitchModel, TextError
from pointsman.backends.choice import Choice, open_backend

RNG = np.random.default_rng(3)
SOURCE = [*RNG.integers(2, 128, 20).tolist(), 1]
OPTIONS = DecodingOptions(max_new_tokens=12, min_new_tokens=12)
FORMS = ("fused", "portable")


class Observed(NumpySwitch):
    """Remembers the choice of every router for every token."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.choices: dict[str, list[int]] = {}

    def experts(self, hidden, name):
        logits = hidden @ self.weights[f"{name}.router.classifier.weight"].T
        logits = logits + self.weights.get(f"{name}.router.classifier.bias", 0.0)
        self.choices.setdefault(name, []).extend(logits.argmax(axis=-1).tolist())
        return super().experts(hidden, name)


def routed(export, form):
    return SwitchModel.load(export.folder, device="cpu", threads=1, routing=True, variant=f"{form}-float32")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["tied", "all-sparse", "router-bias", "gated"])
def test_choices_are_the_definitions(exports, name, form):
    spec = CHECKPOINTS[name]
    model = routed(exports(name, form), form)
    ((generation,),) = model.generate([SOURCE], OPTIONS)
    shown = model.routes(SOURCE, generation.token_ids)
    plain = Observed(spec.architecture, {k: v.float().numpy() for k, v in weights(spec).items()}, spec.expert_capacity)
    states = plain.encode(SOURCE)
    fed = [spec.architecture.decoder_start_token_id, *generation.token_ids[:-1]]
    plain.decode(states, *([token] for token in fed))
    for role, choices in (("encoder", shown.encoder), ("decoder", shown.decoder)):
        expected = [own for layer, own in plain.choices.items() if layer.startswith(role)]
        assert choices.shape == (len(expected), len(SOURCE if role == "encoder" else fed))
        assert np.mean(choices == np.array(expected)) >= (1.0 if plain.narrowest_choice > 1e-4 else 0.98)


@pytest.mark.parametrize("form", FORMS)
def test_showing_them_changes_nothing(exports, form):
    export = exports("tied", form)
    plain, shown = export.load(), routed(export, form)
    assert shown.generate([SOURCE], OPTIONS) == plain.generate([SOURCE], OPTIONS)
    target = [*SOURCE[5:9], 1]
    assert np.array_equal(*(model.score([SOURCE], [target])[0] for model in (plain, shown)))


@pytest.mark.parametrize("form", FORMS)
def test_counts_are_those_of_the_choices(exports, form):
    model = routed(exports("capacity-2", form), form)
    sources = [SOURCE, SOURCE[:7], SOURCE[3:]]
    generations = model.generate(sources, OPTIONS)
    counts = model.expert_counts
    shown = [model.routes(source, own[0].token_ids) for source, own in zip(sources, generations, strict=True)]
    experts = CHECKPOINTS["capacity-2"].architecture.num_experts
    per_input = [[np.bincount(layer, minlength=experts) for layer in one.encoder] for one in shown]
    assert np.array_equal(counts.encoder, np.sum(per_input, axis=0))
    assert np.array_equal(counts.dropped, np.sum(np.maximum(np.array(per_input) - 2, 0), axis=0))
    per_input = [[np.bincount(layer, minlength=experts) for layer in one.decoder] for one in shown]
    assert np.array_equal(counts.decoder, np.sum(per_input, axis=0))
    assert counts.dropped.sum() > 0
    assert exports("tied", form).load().expert_counts is None


def test_counts_of_streams_that_are_read_in_turns(exports):
    """Each has arrays of its own for what its steps choose."""
    model, others = (routed(exports("tied", "fused"), "fused") for _ in range(2))
    options = DecodingOptions(max_new_tokens=12, min_new_tokens=12)
    sources = [SOURCE, SOURCE[:7]]
    for _ in zip(*(model.stream([source], options) for source in sources), strict=True):
        pass
    for source in sources:
        for _ in others.stream([source], options):
            pass
    assert np.array_equal(model.expert_counts.decoder, others.expert_counts.decoder)
    assert np.array_equal(model.expert_counts.encoder, others.expert_counts.encoder)


def test_counts_of_several_threads(exports):
    model = routed(exports("tied", "fused"), "fused")
    batches = [[SOURCE] * count for count in (1, 2, 3)]
    with ThreadPoolExecutor(3) as pool:
        answers = [*pool.map(lambda batch: model.generate(batch, OPTIONS), batches * 6)]
    assert all(generation == answers[0][0] for answer in answers for generation in answer)
    steps = OPTIONS.max_new_tokens * sum(map(len, batches)) * 6
    assert (model.expert_counts.decoder.sum(axis=1) == steps).all()


def test_models_that_do_not_show_them(exports):
    plain = exports("tied", "fused").load()
    assert not plain.shows_routing
    with pytest.raises(OptionsError, match="this model does not show where tokens go; load it with routing=True"):
        plain.routes(SOURCE, [1])


def test_what_cannot_be_shown(exports):
    model = routed(exports("tied", "fused"), "fused")
    with pytest.raises(TextError, match="output 0 has no tokens"):
        model.routes(SOURCE, [])
    with pytest.raises(TextError, match="input 0 has the id 100000"):
        model.routes([100000], [1])


def test_engines_that_do_not_show_them(exports):
    export = exports("tied", "fused")
    choice = Choice("fused-float32", "cuda", "asked for")
    with pytest.raises(OptionsError, match="only ONNX Runtime on the CPU shows routing"):
        open_backend(export.folder, export.manifest, choice, threads=None, verify=False, routing=True)


def test_a_model_without_experts_in_a_stack(exports):
    name = next(name for name, spec in CHECKPOINTS.items() if not spec.architecture.decoder.sparse_layers)
    model = routed(exports(name, "fused"), "fused")
    shown = model.routes(SOURCE, [5, 1])
    assert shown.decoder.shape == (0, 2)
    assert shown.encoder.shape[1] == len(SOURCE)

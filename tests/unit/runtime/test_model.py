"""SwitchModel over an engine that computes nothing: batching, scoring, streams, limits, and loading."""

import importlib.metadata
import weakref
from dataclasses import replace

import numpy as np
import pytest
from fake_backend import wandering
from small_bundles import fake_infiller, fake_model, write_small_bundle

import pointsman
from pointsman.backends.choice import choose
from pointsman.bundle import Limits
from pointsman.decoding import DecodingOptions
from pointsman.errors import (
    BundleError,
    BundleNotFoundError,
    ClosedError,
    DeviceError,
    OptionsError,
    ParityError,
    TextError,
)
from pointsman.infill import Infiller
from pointsman.model import SwitchModel
from pointsman.running import padded

NO_CUDA = (
    "the installed ONNX Runtime has no CUDA; run pip install '.[gpu]' in a checkout of Pointsman, or use device 'cpu'"
)
VOCAB = 128
INPUTS = [[5, 6, 7, 1], [8, 1], [9, 10, 11, 12, 13, 1]]
OPTIONS = [
    DecodingOptions(max_new_tokens=6),
    DecodingOptions(max_new_tokens=6, num_beams=3, num_return_sequences=2),
    DecodingOptions(max_new_tokens=6, do_sample=True, num_return_sequences=3, seed=5),
]


@pytest.fixture
def model(manifest):
    return fake_model(manifest, wandering(manifest.architecture.vocab_size))


@pytest.mark.parametrize("options", OPTIONS, ids=["greedy", "beams", "samples"])
def test_an_input_does_not_depend_on_what_else_is_in_the_batch(model, options):
    together = model.generate(INPUTS, options)
    assert len({generation.token_ids for of_input in together for generation in of_input}) >= len(INPUTS)
    # The first of a batch has the same random stream as one alone.
    for first in range(1 if options.do_sample else len(INPUTS)):
        assert model.generate([INPUTS[first]], options) == [together[first]]


def test_greedy_is_the_argmax_of_the_engine(model):
    logits = wandering(model.manifest.architecture.vocab_size)
    (generation,) = model.generate([INPUTS[0]], DecodingOptions(max_new_tokens=8))[0]
    prefix = (0,)
    for token in generation.token_ids:
        assert token == int(logits(tuple(INPUTS[0]), prefix).argmax())
        prefix = (*prefix, token)


def test_greedy_is_the_default(model):
    assert model.generate(INPUTS) == model.generate(INPUTS, DecodingOptions())


def test_streamed_tokens_are_the_generated_ones(model):
    options = OPTIONS[0]
    tokens = {number: [] for number in range(len(INPUTS))}
    for events in model.stream(INPUTS, options):
        for event in events:
            tokens[event.input_index].append(event.token_id)
    assert [tuple(ids) for ids in tokens.values()] == [
        of_input[0].token_ids for of_input in model.generate(INPUTS, options)
    ]


def test_scores_are_the_log_probabilities_that_decoding_reports(model):
    generations = [of_input[0] for of_input in model.generate(INPUTS, OPTIONS[0])]
    scores = model.score(INPUTS, [generation.token_ids for generation in generations])
    for logprobs, generation in zip(scores, generations, strict=True):
        np.testing.assert_allclose(logprobs, generation.token_logprobs, rtol=1e-6)


def test_several_targets_share_a_source(model):
    targets = [[20, 21, 1], [22, 1], [23, 24, 25, 1], [26, 1]]
    shared = model.score(INPUTS[:2], targets)
    assert [len(source) for source in model.backend.encoded] == [2]
    alone = [model.score([INPUTS[row // 2]], [target])[0] for row, target in enumerate(targets)]
    for one, other in zip(shared, alone, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_targets_must_divide_among_the_sources(model):
    with pytest.raises(TextError, match="3 targets do not divide among 2 inputs; give as many for each"):
        model.score(INPUTS[:2], [[5], [6], [7]])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "there is no input; give at least one"),
        ([[5], []], "input 1 has no tokens; give at least one"),
        (
            [[5] * 129],
            "input 0 has 129 tokens, and this bundle takes 128 at most; shorten it, or export",
        ),
        ([[5, 128]], "input 0 has the id 128; the model knows 0 to 127"),
        ([[-1]], "input 0 has the id -1"),
        ([[5, 1.5]], "input 0 has the id 1.5; the model knows 0 to 127"),
        ([[True]], "input 0 has the id True"),
        ([np.array([1.0])], "input 0 has the id "),
        ([np.array([[5], [6]])], r"input 0 has the id array\(\[5\]\); the model knows"),
        ([5, 6], "input 0 is 5; give a list of token ids"),
        ("text", "inputs are 'text'; give a list with a list of token ids for each input"),
        (["text"], "input 0 is 'text'; give a list of token ids"),
        (None, "inputs are None; give a list with a list of token ids for each input"),
    ],
)
def test_bad_inputs(model, inputs, message):
    for method in (model.generate, model.stream):
        with pytest.raises(TextError, match=message):
            method(inputs)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint16])
def test_ids_may_be_arrays(model, dtype):
    lists = [[5, 6, 7], [8, 9, 1]]
    arrays = np.array(lists, dtype)
    assert model.generate(arrays) == model.generate([*arrays]) == model.generate(lists)
    assert [scores.tolist() for scores in model.score(arrays, arrays)] == [
        scores.tolist() for scores in model.score(lists, lists)
    ]


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, 3])
def test_options_that_are_none(model, options):
    for method in (model.generate, model.stream):
        with pytest.raises(OptionsError) as caught:
            method([[5]], options)
        assert str(caught.value) == f"options are {options}; use DecodingOptions, with their names as keywords"


def test_bad_targets(model):
    with pytest.raises(TextError, match="target 0 has 129 tokens"):
        model.score([[5]], [[5] * 129])


def test_a_request_may_not_exceed_the_bundles_limit(manifest):
    model = fake_model(replace(manifest, limits=Limits(tokens=16)), wandering(128))
    for method in (model.generate, model.stream):
        with pytest.raises(
            OptionsError,
            match="max_new_tokens is 17, and this bundle allows at most 16; ask for less, or export it",
        ):
            method([[5]], DecodingOptions(max_new_tokens=17))


@pytest.mark.parametrize(
    "options", [DecodingOptions(num_beams=2049), DecodingOptions(do_sample=True, num_return_sequences=2049)]
)
def test_more_rows_than_make_sense(model, options):
    with pytest.raises(
        OptionsError,
        match=r"^4098 beams or samples at a time are too many \(2049 of each input\); ask for 4096 at most$",
    ):
        model.generate(INPUTS[:2], options)


def test_memory_that_does_not_suffice(manifest):
    def hungry(source, prefix):
        raise MemoryError

    model = fake_model(manifest, hungry)
    for use in (lambda: model.generate([[5]]), lambda: list(model.stream([[5]]))):
        with pytest.raises(
            DeviceError, match=r"^this machine is out of memory; ask for fewer inputs or beams at a time"
        ):
            use()


@pytest.mark.parametrize("threads", [0, -3, 1025, "x", 1.5, True])
def test_threads_out_of_range(small_bundle, threads):
    with pytest.raises(OptionsError) as caught:
        SwitchModel.load(small_bundle, device="cpu", threads=threads)
    assert str(caught.value) == f"threads is {threads!r}; use a whole number from 1 to 1024"


def test_logits_that_are_not_finite_are_an_error(manifest):
    def broken(source, prefix):
        return np.full(128, np.nan if len(prefix) > 2 else 0, np.float32)

    model = fake_model(manifest, broken)
    for use in (lambda: model.generate([[5]]), lambda: model.score([[5]], [[6, 7, 8]])):
        with pytest.raises(ParityError, match="not finite at token 3"):
            use()


def test_padding_goes_right():
    ids, mask = padded([[5, 6, 7], [8]], 0)
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_load_verifies_files_before_the_engine_sees_them(tmp_path):
    write_small_bundle(tmp_path / "bundle")
    with pytest.raises(BundleError, match=r"^ONNX Runtime refuses fused.encoder.onnx"):
        SwitchModel.load(tmp_path / "bundle", device="cpu")
    (tmp_path / "bundle/variants/float32/weights.bin").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"weights.bin has 5 bytes instead of 1100"):
        SwitchModel.load(tmp_path / "bundle", device="cpu")
    with pytest.raises(BundleError, match=r"^ONNX Runtime refuses fused.encoder.onnx"):
        SwitchModel.load(tmp_path / "bundle", device="cpu", verify=False)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"variant": "fused-int8"}, BundleError, "has no variant 'fused-int8'; it has fused-float32, portable-float32"),
        ({"device": "gpu"}, OptionsError, "unknown device 'gpu'; use auto, cpu, cuda"),
        ({"device": "cuda"}, DeviceError, "the installed ONNX Runtime has no CUDA; run pip install"),
    ],
)
@pytest.mark.usefixtures("no_cuda")
def test_load_refuses(small_bundle, arguments, error, message):
    with pytest.raises(error, match=message):
        SwitchModel.load(small_bundle, **arguments)


def test_load_refuses_what_is_not_there(tmp_path):
    with pytest.raises(BundleNotFoundError, match="is not a bundle"):
        SwitchModel.load(tmp_path / "nowhere")


@pytest.fixture
def no_cuda(monkeypatch):
    monkeypatch.setattr("pointsman.backends.onnxruntime.why_not_cuda", lambda: NO_CUDA)


@pytest.fixture
def cuda(monkeypatch):
    monkeypatch.setattr("pointsman.backends.onnxruntime.why_not_cuda", lambda: None)


def having(manifest, *names):
    """The manifest of a bundle that has these variants."""
    some = next(iter(manifest.variants.values()))
    return replace(manifest, variants=dict.fromkeys(names, some))


FLOATS = [f"{form}-{precision}" for precision in ("float32", "bfloat16", "float16") for form in ("fused", "portable")]


@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (FLOATS, "fused-float32"),
        (["portable-float32"], "portable-float32"),
        (["portable-float32", "fused-float16"], "portable-float32"),
        (["portable-float16", "fused-float16"], "fused-float16"),
    ],
)
def test_what_auto_prefers_on_the_cpu(manifest, names, chosen):
    choice = choose(having(manifest, *names), device="auto", variant="auto")
    assert (choice.variant, choice.device) == (chosen, "cpu")
    assert (
        choice.reason
        == f"the installed ONNX Runtime has no CUDA; {chosen} is the fastest here on cpu without quantization"
    )


@pytest.mark.usefixtures("cuda")
def test_what_auto_prefers_on_cuda(manifest):
    """Half precision before float32, and of each precision the portable form."""
    left = [*FLOATS]
    for chosen in [f"{form}-{kind}" for kind in ("bfloat16", "float16", "float32") for form in ("portable", "fused")]:
        choice = choose(having(manifest, *left), device="auto", variant="auto")
        assert (choice.variant, choice.device) == (chosen, "cuda")
        assert choice.reason == f"ONNX Runtime has CUDA; {chosen} is the fastest here on cuda without quantization"
        left.remove(chosen)


@pytest.mark.usefixtures("no_cuda")
def test_bfloat16_does_not_run_on_the_cpu(manifest):
    some = replace(manifest.variants["fused-float32"], precision="bfloat16")
    only = replace(manifest, variants={"fused-bfloat16": some})
    with pytest.raises(DeviceError, match="does not run bfloat16 on the CPU"):
        choose(only, device="auto", variant="fused-bfloat16")
    with pytest.raises(BundleError, match="no variant of this bundle runs on cpu without quantization"):
        choose(only, device="auto", variant="auto")


def test_what_a_model_is(small_bundle, manifest, tokenizer, monkeypatch):
    monkeypatch.setattr("pointsman.model.open_backend", lambda *arguments, **keywords: None)
    model = SwitchModel.load(small_bundle, device="cpu")
    assert repr(model) == f"SwitchModel(bundle='{small_bundle}', variant='fused-float32', device='cpu')"
    assert repr(Infiller(model, tokenizer)) == repr(model).replace("SwitchModel", "Infiller")
    assert repr(fake_model(manifest, None)).startswith("SwitchModel(bundle=None, variant=")


def test_the_version_is_that_of_the_package():
    assert pointsman.__version__ == importlib.metadata.version("pointsman")


@pytest.mark.parametrize(
    "use",
    [
        lambda one: one.model.generate([[5]]),
        lambda one: one.model.stream([[5]]),
        lambda one: one.model.score([[5]], [[5]]),
        lambda one: one.model.encode([[5]], rows=1),
        lambda one: one.model.routes([5], [5]),
        lambda one: one.model.running(),
        lambda one: one.infill("<extra_id_0>"),
        lambda one: one.infill_batch(["<extra_id_0>"]),
        lambda one: one.stream("<extra_id_0>"),
        lambda one: one.score("<extra_id_0>", [["a"]]),
    ],
)
def test_a_closed_model_says_so(manifest, tokenizer, use):
    with fake_infiller(manifest, tokenizer, wandering(VOCAB)) as infiller:
        assert infiller.infill("<extra_id_0>")
    infiller.close()
    with pytest.raises(ClosedError, match=r"^this model is closed; load it again to use it$"):
        use(infiller)


def test_closing_gives_the_engine_back(manifest):
    with fake_model(manifest, wandering(VOCAB)) as model:
        whole = [*model.stream([[5, 6]])]
        begun = model.stream([[5, 6]])
        engine = weakref.ref(model.backend)
        first = next(begun)
    assert [first, *begun] == whole, "what has begun goes on"
    del begun
    assert engine() is None
    assert repr(model).startswith("SwitchModel(")

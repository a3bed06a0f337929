"""The TensorRT backend with the host in the place of GPU and library: tokens are ONNX Runtime's, whatever is asked."""

import gc
import weakref

import numpy as np
import pytest

from pointsman import DecodingOptions, SwitchModel
from pointsman.backends.gpu.device import CaptureError
from pointsman.backends.gpu.replays import MOST, Replays
from pointsman.decoding import SentinelConstraint
from pointsman.errors import OptionsError
from tolerances import FORMS, SCORE
from unit.backends.conftest import VARIANT, profile, write_engines

INPUTS = [[5, 9, 33, 1], [7, 1], [100, 20, 30, 40, 50, 60, 70, 1]]


@pytest.fixture(scope="module")
def reference(exported):
    return SwitchModel.load(exported, device="cpu", variant=VARIANT, threads=1)


def check(ours, theirs):
    assert [[g.token_ids for g in of] for of in ours] == [[g.token_ids for g in of] for of in theirs]
    for mine, other in zip([g for of in ours for g in of], [g for of in theirs for g in of], strict=True):
        SCORE.check(mine.score, other.score)
        SCORE.check(mine.token_logprobs, other.token_logprobs)


CASES = [
    {},
    {"min_new_tokens": 9, "repetition_penalty": 1.3},
    {"num_beams": 4, "num_return_sequences": 4},
    {"num_beams": 3, "no_repeat_ngram_size": 2, "length_penalty": 0.6, "early_stopping": True},
    {"do_sample": True, "seed": 4, "num_return_sequences": 3},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_tokens_and_scores(hosted, reference, case):
    options = DecodingOptions(max_new_tokens=14, **case)
    model = hosted.model()
    expected = reference.generate(INPUTS, options)
    for _ in range(3):  # done, recorded, replayed
        check(model.generate(INPUTS, options), expected)
    assert hosted.device.replays > 0
    assert model.backend.decoder.replays.refusal is None


def test_constrained(hosted, reference):
    options = DecodingOptions(num_beams=3, max_new_tokens=12)
    sentinels = list(range(127, 107, -1))
    constraint = SentinelConstraint(
        [[127, 126], [127], [125]], all_sentinels=sentinels, tokens=reference.special_tokens, options=options
    )
    check(
        hosted.model().generate(INPUTS, options, constraint=constraint),
        reference.generate(INPUTS, options, constraint=constraint),
    )


def test_log_likelihoods_of_given_targets(hosted, reference):
    targets = [[4, 9, 1], [77, 1], [8, 8, 8, 1], [3, 1], [5, 1], [6, 2, 1]]
    ours, theirs = (model.score(INPUTS, targets) for model in (hosted.model(), reference))
    for mine, other in zip(ours, theirs, strict=True):
        SCORE.check(mine, other)


def test_more_positions_at_once_are_fed_one_after_another(hosted, reference):
    ids = np.array([[0, 5, 6], [0, 9, 1]])
    source = np.array([[5, 9, 1], [7, 1, 0]]), np.array([[1, 1, 1], [1, 1, 0]])
    logits = [
        model.backend.encode(*source, rows=2, room=3).step(ids, np.arange(2)) for model in (hosted.model(), reference)
    ]
    FORMS.check(*logits)
    assert logits[0].shape == logits[1].shape


def test_one_recording_serves_all_lengths(hosted, reference):
    options = DecodingOptions(max_new_tokens=100, min_new_tokens=100)
    check(hosted.model().generate(INPUTS[:1], options), reference.generate(INPUTS[:1], options))


def test_what_was_recorded_serves_the_next_request(hosted):
    model = hosted.model()
    options = DecodingOptions(max_new_tokens=5, min_new_tokens=5)
    counts = []
    for ids in ([5, 9, 1], [7, 8, 1], [9, 9, 9, 9, 9, 1], [4, 1]):  # of other lengths, but padded alike
        before = hosted.device.replays
        model.generate([ids], options)
        counts.append(hosted.device.replays - before)
    assert counts == [3, 5, 6, 6]  # the third step of a shape is replayed; of the encoder, the third request's


def test_each_recording_has_a_context_of_its_own(hosted):
    """That contexts are not changed after they were recorded from, the stand-in sees to."""
    model = hosted.model()
    options = DecodingOptions(max_new_tokens=5, min_new_tokens=5)
    assert len(hosted.library.contexts) == 2  # of encoder and decoder
    for _ in range(4):
        model.generate([[5, 1]], options)
    recorded = [context for context in hosted.library.contexts if context.recorded]
    assert (len(recorded), len(hosted.library.contexts)) == (2, 4)  # encoder and step
    assert len({context.activations for context in hosted.library.contexts}) == 2  # one for each plan


class Recording:
    """Work that was recorded; it does nothing."""

    def __call__(self) -> None:
        pass


def test_recordings_are_kept_within_bounds():
    replays, made = Replays(), []

    def record():
        made.append(weakref.ref(recording := Recording()))
        return recording

    for key in range(MOST + 2):
        for _ in range(2):
            replays.run(key, lambda: None, record)
    replays.run(2, lambda: None, record)  # used last, though the oldest
    replays.run(MOST + 2, lambda: None, record)
    gone = [number for number, recording in enumerate(made) if recording() is None]
    assert len(made) == MOST + 2
    assert gone == [0, 1, 3]


def test_where_nothing_can_be_recorded_all_is_done_each_time(hosted, reference):
    hosted.device.captures = False
    model = hosted.model()
    options = DecodingOptions(max_new_tokens=6)
    for _ in range(3):
        check(model.generate(INPUTS, options), reference.generate(INPUTS, options))
    assert hosted.device.replays == 0
    assert model.backend.decoder.replays.refusal == "not today"


def test_without_memory_for_recordings_all_is_done_each_time(hosted, reference, monkeypatch):
    model = hosted.model()
    monkeypatch.setattr(
        type(hosted.library.contexts[0].engine),
        "create_execution_context",
        lambda engine, strategy: engine.logger.log(1, "Error Code 2: OutOfMemory"),
    )
    options = DecodingOptions(max_new_tokens=6)
    for _ in range(3):
        check(model.generate(INPUTS, options), reference.generate(INPUTS, options))
    assert hosted.device.replays == 0
    assert model.backend.decoder.replays.refusal.startswith("the GPU is out of memory")


def test_requests_may_be_interleaved(hosted, reference):
    model = hosted.model()
    options = DecodingOptions(max_new_tokens=8, min_new_tokens=8)
    streams = [model.stream([ids], options) for ids in INPUTS]
    tokens = [[events[0].token_id for events in step] for step in zip(*streams, strict=True)]
    expected = [reference.generate([ids], options)[0][0].token_ids for ids in INPUTS]
    assert [tuple(of_input) for of_input in zip(*tokens, strict=True)] == expected


def test_a_request_that_ended_gives_its_memory_to_the_next(hosted):
    model = hosted.model()
    options = DecodingOptions(max_new_tokens=3)
    model.generate(INPUTS, options)
    gc.collect()
    taken = sum(hosted.device.live.values())
    model.generate(INPUTS, options)
    assert sum(hosted.device.live.values()) == taken


def test_few_bytes_come_to_the_host(hosted):
    """Selecting brings back less than the logits, by far."""
    model = hosted.model()
    vocabulary = model.manifest.architecture.vocab_size
    state = model.encode([[5, 1]], rows=4, room=2)
    before = hosted.device.copied
    state.select(np.zeros((4, 1), np.int64), np.arange(4), np.zeros((4, 0), np.int64), 8)
    few = hosted.device.copied - before
    state.step(np.zeros((4, 1), np.int64), np.arange(4))
    assert hosted.device.copied - before - few >= 4 * 4 * vocabulary
    assert few < 16 * 256


@pytest.mark.parametrize(
    ("inputs", "options", "sentence"),
    [
        (
            INPUTS,
            {"num_beams": 5},
            (
                "the engine takes 1 to 12 decoder rows (inputs times beams or samples), and the "
                "request has 15; ask for less at a time, or build anew by `pointsman-export engines --max-rows 15`"
            ),
        ),
        (
            [[3] * 70],
            {},
            (
                "the engine takes 1 to 64 tokens in an input, and the request has 70; "
                "ask for less at a time, or build anew by `pointsman-export bundle --max-tokens`"
            ),
        ),
        (
            [[3] * 70] * 4,
            {"num_beams": 4},
            (
                "the engine takes 1 to 12 decoder rows (inputs times beams or samples), "
                "and the request has 16; the engine takes 1 to 64 tokens in an input, and the request has 70; "
                "ask for less at a time, or build anew by `pointsman-export bundle --max-tokens` with a higher limit "
                "and `pointsman-export engines --max-rows 16`"
            ),
        ),
    ],
)
def test_a_request_that_no_profile_admits(hosted, inputs, options, sentence):
    with pytest.raises(OptionsError) as told:
        hosted.model().generate(inputs, DecodingOptions(max_new_tokens=4, **options))
    assert sentence in str(told.value)


def test_output_that_may_be_longer_than_a_profile_admits(hosted):
    write_engines(hosted.folder, (profile("full", 2, capacity=32),))
    with pytest.raises(OptionsError, match=r"the engine takes up to 32 generated tokens, and the request has 33"):
        hosted.model().generate([[4, 1]], DecodingOptions(max_new_tokens=33))


def test_the_narrowest_profile_that_fits_is_taken(hosted):
    model = hosted.model()
    for inputs, expected in ((INPUTS[:1], 0), (INPUTS, 1), (INPUTS[:1], 0)):
        model.generate(inputs, DecodingOptions(max_new_tokens=2))
        assert [context.profile for context in hosted.library.contexts[:2]] == [expected, expected]


def test_what_is_recorded_stays_when_nothing_more_can_be():
    """Later work is done each time, and takes no recording's place."""
    replays, done = Replays(most=2), []

    def refuse():
        raise CaptureError("no more")

    for _ in range(3):
        replays.run("kept", lambda: done.append("done"), lambda: lambda: done.append("replayed"))
    for _ in range(2):
        replays.run("refused", lambda: None, refuse)
    for key in range(9):
        replays.run(key, lambda: None, refuse)
    replays.run("kept", lambda: done.append("done"), refuse)
    assert done == ["done", "done", "replayed", "replayed"]

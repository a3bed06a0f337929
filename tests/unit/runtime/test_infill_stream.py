"""Streams of spans: they end as `infill` ends, and grow only at their end."""

import pytest
from fake_backend import saying, wandering
from small_bundles import fake_infiller

from pointsman import DecodingOptions
from pointsman.errors import OptionsError

VOCAB = 128
TEXTS = (
    "The <extra_id_0> walks.",
    "<extra_id_4><extra_id_2> and <extra_id_0>",
    "un<extra_id_1>able \n<extra_id_0> ",
    " ".join(f"<extra_id_{n}>" for n in range(12)),
)


@pytest.mark.parametrize("search", [{}, {"do_sample": True, "seed": 3}, {"constrain": False}])
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("seed", range(4))
def test_a_stream_ends_as_infill_does(manifest, tokenizer, text, seed, search):
    infiller = fake_infiller(manifest, tokenizer, wandering(VOCAB, seed))
    last = {span.index: span for span in infiller.stream(text, **search)}
    (fill,) = infiller.infill(text, **search)
    assert last == {span.index: span for span in fill.spans}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("seed", range(4))
def test_constrained_spans_grow_in_order_and_only_at_their_end(manifest, tokenizer, text, seed):
    infiller = fake_infiller(manifest, tokenizer, wandering(VOCAB, seed))
    seen = {}
    finished = []
    for span in infiller.stream(text):
        assert span.index not in finished
        before = seen.get(span.index)
        if before is not None:
            assert span.text.startswith(before.text)
            assert span.token_ids[: len(before.token_ids)] == before.token_ids
            assert span != before
        if span.state != "growing":
            finished.append(span.index)
        seen[span.index] = span
    (fill,) = infiller.infill(text)
    assert finished == [span.index for span in fill.spans]


def test_events_of_one_stream(manifest, tokenizer):
    dog = tokenizer.encode_span(" dog")
    script = [tokenizer.sentinel_id(3), *dog, tokenizer.sentinel_id(4)]
    infiller = fake_infiller(manifest, tokenizer, saying(VOCAB, script))
    events = list(infiller.stream("The <extra_id_3>."))
    assert [event.state for event in events] == ["growing"] * (1 + len(dog)) + ["complete"]
    assert (events[0].text, events[0].score, events[0].token_ids) == ("", 0.0, ())
    assert [len(event.token_ids) for event in events] == [*range(1 + len(dog)), len(dog)]
    assert events[-1].text == "dog"


def test_a_stream_computes_only_what_is_asked_for(manifest, tokenizer):
    calls = []
    logits = wandering(VOCAB)

    def counting(source, prefix):
        calls.append(prefix)
        return logits(source, prefix)

    stream = fake_infiller(manifest, tokenizer, counting).stream("The <extra_id_0> walks.")
    next(stream)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2}, "num_beams 2 cannot be streamed"),
        ({"do_sample": True, "num_return_sequences": 2}, "num_return_sequences 2 cannot be streamed; use 1"),
    ],
)
def test_what_cannot_be_streamed_is_refused_at_once(manifest, tokenizer, options, message):
    infiller = fake_infiller(manifest, tokenizer, wandering(VOCAB))
    for arguments in ({"options": DecodingOptions(**options)}, options):
        with pytest.raises(OptionsError, match=message):
            infiller.stream("The <extra_id_0> walks.", **arguments)

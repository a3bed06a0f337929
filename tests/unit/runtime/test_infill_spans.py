"""Spans of generated ids: read token by token, they are what the whole answer's definition says, at every prefix."""

import random
from itertools import pairwise

import pytest

from pointsman.infill import Span
from pointsman.infill.spans import SpanReader
from pointsman.text.template import Template

TEXTS = (
    "The <extra_id_0> walks.",
    "<extra_id_4><extra_id_2> and <extra_id_0>",
    "un<extra_id_1>able \n<extra_id_0> ",
    "<extra_id_0><extra_id_1><extra_id_2><extra_id_3>",
    "\u200b<extra_id_19> <extra_id_18>\t<extra_id_17>",
)


def spans_by_definition(template, tokenizer, ids, logprobs, *, ended):
    """Cut the whole of the ids at sentinels, pads and the end; of a repeated sentinel the first counts."""
    end = ids.index(tokenizer.eos_id) if tokenizer.eos_id in ids else len(ids)
    cuts = [place for place in range(end) if ids[place] == tokenizer.pad_id or ids[place] in tokenizer.sentinel_ids]
    places = {}
    for start, stop in pairwise([*cuts, end]):
        places.setdefault(ids[start], slice(start + 1, stop))
    found = [places.get(tokenizer.sentinel_id(index)) for index in template.sentinels]
    texts = template.fit([tokenizer.decode_span(ids[place]) if place else "" for place in found])
    return tuple(
        Span(
            index=index,
            text=text,
            score=sum(logprobs[place], 0.0) if place else 0.0,
            token_ids=tuple(ids[place]) if place else (),
            state=state_by_definition(place, len(ids), ended=ended),
        )
        for index, text, place in zip(template.sentinels, texts, found, strict=True)
    )


def state_by_definition(place, length, *, ended):
    if place is None:
        return "missing"
    if place.stop < length:
        return "complete"
    return "cut" if ended else "growing"


def answers(tokenizer, seed, count=40, length=25):
    """Ids of any kind, with their scores: mostly text; sentinels, spaces, pads and ends where they should not be."""
    rng = random.Random(seed)
    special = [*tokenizer.sentinel_ids, *[*tokenizer.sentinel_ids][-5:] * 8]
    special += [tokenizer.pad_id, tokenizer.unk_id, *tokenizer.white_space_ids * 4]
    for _ in range(count):
        ids = [
            rng.choice(special) if rng.random() < 0.35 else rng.randrange(2, tokenizer.vocab_size + 8)
            for _ in range(length)
        ]
        if rng.random() < 0.3:
            ids[rng.randrange(length)] = tokenizer.eos_id
        yield ids, [-rng.random() for _ in ids]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("seed", range(5))
def test_every_prefix_reads_as_the_definition_has_it(tokenizer, text, seed):
    template = Template.parse(text, len(tokenizer.sentinel_ids))
    seen = set()
    for ids, logprobs in answers(tokenizer, seed):
        reader = SpanReader(template, tokenizer, {tokenizer.eos_id})
        for end in range(len(ids) + 1):
            for ended in (False, True):
                expected = spans_by_definition(template, tokenizer, ids[:end], logprobs[:end], ended=ended)
                assert reader.spans(ended=ended) == expected
                seen |= {span.state for span in expected if span.text}
            if end < len(ids):
                reader.read(ids[end], logprobs[end])
    assert seen == {"growing", "complete", "cut"}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("seed", range(5))
def test_changes_are_the_spans_that_differ_from_those_before(tokenizer, text, seed):
    template = Template.parse(text, len(tokenizer.sentinel_ids))
    for ids, logprobs in answers(tokenizer, seed):
        reader, before = SpanReader(template, tokenizer, {tokenizer.eos_id}), {}
        for end in range(1, len(ids) + 1):
            ended = end == len(ids)
            reader.read(ids[end - 1], logprobs[end - 1])
            spans = spans_by_definition(template, tokenizer, ids[:end], logprobs[:end], ended=ended)
            changed = [span for span in spans if span != before.get(span.index)]
            expected = [span for span in changed if ended or span.state != "missing"]
            assert [*reader.changes(ended=ended)] == expected
            before |= {span.index: span for span in expected}


@pytest.mark.parametrize("seed", range(20))
def test_text_grows_piece_by_piece(tokenizer, seed):
    """What lets a stream read each token once: the text of ids is that of its parts, one after the other."""
    for ids, _ in answers(tokenizer, seed):
        for cut in range(len(ids) + 1):
            whole = tokenizer.decode_span(ids)
            assert tokenizer.decode_span(ids[:cut]) + tokenizer.decode_span(ids[cut:]) == whole


S0, S1, S2, PAD, EOS = "<0>", "<1>", "<2>", "<pad>", "<eos>"


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([S0, 50, 60, S1, 70, S2, EOS], [(50, 60), (70,)]),
        ([PAD, S0, 50, 60, S1, 70, EOS, PAD, PAD], [(50, 60), (70,)]),
        ([S0, 50, S1, 70], [(50,), (70,)]),  # cut off at max_new_tokens
        ([S1, 70, S0, 50, EOS], [(50,), (70,)]),  # out of order
        ([S0, 50, EOS], [(50,), None]),  # missing
        ([S0, S1, 70, EOS], [(), (70,)]),  # empty
        ([S0, 50, S0, 60, S1, 70, EOS], [(50,), (70,)]),  # repeated: the first counts
        ([80, 90, S0, 50, S1, 70, EOS], [(50,), (70,)]),  # something before the first sentinel
        ([S0, 50, S2, 60, S1, 70, EOS], [(50,), (70,)]),  # a sentinel that the text does not use
        ([S0, 50, EOS, S1, 70], [(50,), None]),  # nothing counts after the end
        ([S0, 50, PAD, 60, S1, 70], [(50,), (70,)]),
        ([EOS], [None, None]),
        ([], [None, None]),
    ],
)
def test_spans_of_well_and_of_ill_formed_ids(tokenizer, ids, expected):
    named = {S0: 0, S1: 1, S2: 2}
    special = {name: tokenizer.sentinel_id(index) for name, index in named.items()}
    special |= {PAD: tokenizer.pad_id, EOS: tokenizer.eos_id}
    reader = SpanReader(Template.parse("<extra_id_0> <extra_id_1>"), tokenizer, {tokenizer.eos_id})
    for token in ids:
        reader.read(special.get(token, token), -1.0)
    spans = reader.spans(ended=True)
    assert [None if span.state == "missing" else span.token_ids for span in spans] == expected
    assert [span.score for span in spans] == [-1.0 * len(of_span or ()) for of_span in expected]


def test_spans_come_in_the_order_of_the_text(tokenizer):
    reader = SpanReader(Template.parse("<extra_id_1> <extra_id_0>"), tokenizer, {tokenizer.eos_id})
    for token in (tokenizer.sentinel_id(0), 50, tokenizer.sentinel_id(1), 70):
        reader.read(token, -1.0)
    assert [(span.index, span.token_ids) for span in reader.spans(ended=True)] == [(1, (70,)), (0, (50,))]

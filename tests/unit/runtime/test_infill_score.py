"""Scoring candidates: the target is T5's, the sum is the model's, and spans survive the way to ids and back."""

import pytest
from fake_backend import wandering
from small_bundles import fake_infiller

from pointsman.errors import TextError
from pointsman.text.template import Template

VOCAB = 128


@pytest.fixture
def infiller(manifest, tokenizer):
    return fake_infiller(manifest, tokenizer, wandering(VOCAB))


@pytest.mark.parametrize(
    ("text", "spans", "target"),
    [
        ("The <extra_id_0> in <extra_id_1>.", ["man", "a park"], ["<0>", " man", "<1>", " a park", "<2>"]),
        ("The <extra_id_5> in <extra_id_2>.", ["man", "park"], ["<5>", " man", "<2>", " park", "<3>"]),
        ("The <extra_id_1> in <extra_id_0>.", ["man", "park"], ["<1>", " man", "<0>", " park"]),  # 1 is in use
        ("The <extra_id_19>.", ["man"], ["<19>", " man"]),  # there is no 20
        ("un<extra_id_0>able", ["believ"], ["<0>", "believ", "<1>"]),
        ("un<extra_id_0>able", [" dog"], ["<0>", " dog", "<1>"]),
        ("The<extra_id_0>", [" man"], ["<0>", " man", "<1>"]),
        ("<extra_id_0><extra_id_1>", ["un", "able"], ["<0>", " un", "<1>", "able", "<2>"]),
        ("The <extra_id_0>.", [""], ["<0>", "<1>"]),
    ],
)
def test_the_score_is_of_the_training_target(infiller, tokenizer, text, spans, target):
    ids = []
    for part in target:
        is_sentinel = part.startswith("<")
        ids.extend([tokenizer.sentinel_id(int(part[1:-1]))] if is_sentinel else tokenizer.encode_span(part))
    (expected,) = infiller.model.score([tokenizer.encode(text)], [[*ids, tokenizer.eos_id]])
    (score,) = infiller.score(text, [spans])
    assert isinstance(score, float)
    assert score == pytest.approx(float(expected.sum()))


def test_candidates_are_scored_together_and_as_if_alone(infiller):
    text = "The <extra_id_0> in <extra_id_1>."
    candidates = [["man", "the park"], ["dog", "a"], ["unbelievable pointsman", "home"]]
    scores = infiller.score(text, candidates)
    assert [len(sources) for sources in infiller.model.backend.encoded] == [1]
    assert scores == [pytest.approx(infiller.score(text, [candidate])[0]) for candidate in candidates]
    assert len(set(scores)) == 3
    assert infiller.score(text, []) == []


def test_fills_can_be_scored_as_they_are(infiller, tokenizer):
    text = "The <extra_id_0>unlike<extra_id_2> walks"
    for fill in infiller.infill(text, num_beams=3, num_return_sequences=3):
        spans = [span.text for span in fill.spans]
        assert infiller.score(text, [spans])[0] < 0
        template = Template.parse(text)
        assert template.fit(template.unfit(spans)) == tuple(spans)


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ([["a", "b"], ["a"]], "candidate 1: 1 span for 2 blanks: give one for each blank, in order"),
        ([["a", "b", "c"]], "candidate 0: 3 spans for 2 blanks"),
        ([["a", "b <extra_id_3>"]], "candidate 0: a span is plain text and cannot hold <extra_id_3>"),
        ([["</s>", "b"]], "candidate 0: a span is plain text and cannot hold </s>"),
        ([["a", "\udc80"]], "candidate 0: the text is not valid Unicode"),
        (["ab"], "candidate 0: the spans are one string; give a list of them, one for each blank"),
        ([["dog " * 200, "b"]], "target 0 has [0-9]+ tokens, and this bundle takes 128 at most"),
    ],
)
def test_bad_candidates(infiller, candidates, message):
    with pytest.raises(TextError, match=message):
        infiller.score("<extra_id_0> <extra_id_1>", candidates)


@pytest.mark.parametrize("text", [" cute dog", "believ", "able, of course", " ", "", " 10:45 café", "oooo"])
def test_a_span_survives_the_way_to_ids_and_back(tokenizer, text):
    assert tokenizer.decode_span(tokenizer.encode_span(text)) == (text if text.strip() else "")


@pytest.mark.parametrize("text", ["cute dog", "The man walks in the park.", "café Zoë"])
def test_a_span_that_begins_a_word_has_the_ids_of_text(tokenizer, text):
    assert tokenizer.encode_span(" " + text) == tokenizer.encode(text, add_eos=False)
    assert tokenizer.encode_span(text) != tokenizer.encode(text, add_eos=False)


@pytest.mark.parametrize(
    ("text", "spans", "whole"),
    [
        ("The <extra_id_0> walks", ["dog"], (" dog",)),
        ("The <extra_id_0> walks", [" dog"], ("  dog",)),
        ("The<extra_id_0> walks", [" dog"], (" dog",)),
        ("un<extra_id_0>able", ["believ"], ("believ",)),
        ("<extra_id_0> walks", ["He"], (" He",)),
        ("<extra_id_0><extra_id_1>", ["un", "able"], (" un", "able")),
        ("<extra_id_0><extra_id_1>", ["", "He"], (" ", " He")),
    ],
)
def test_unfit_gives_back_the_spaces(text, spans, whole):
    template = Template.parse(text)
    assert template.unfit(spans) == whole
    assert template.fit(whole) == tuple(spans)


def test_unfit_needs_a_span_for_each_blank():
    with pytest.raises(TextError, match="2 spans for 1 blank:"):
        Template.parse("<extra_id_0>").unfit(["a", "b"])

"""Texts with blanks: taking them apart and filling them."""

import random

import pytest

from pointsman.errors import TextError
from pointsman.text.template import Template


@pytest.mark.parametrize(
    ("text", "segments", "sentinels"),
    [
        ("The <extra_id_0> walks", ("The ", " walks"), (0,)),
        ("<extra_id_0>", ("", ""), (0,)),
        ("<extra_id_1><extra_id_0>", ("", "", ""), (1, 0)),
        ("a<extra_id_99>\r\n<extra_id_5>\u200b", ("a", "\r\n", "\u200b"), (99, 5)),
        ("<extra_id_007> <extra_id_7>", ("<extra_id_007> ", ""), (7,)),
    ],
)
def test_parse(text, segments, sentinels):
    template = Template.parse(text)
    assert (template.segments, template.sentinels) == (segments, sentinels)
    assert template.fill([f"<extra_id_{n}>" for n in sentinels]) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no blank: write <extra_id_0>"),
        ("The ___ walks", "no blank: write <extra_id_0>"),
        ("The <extra_id_0", "no blank"),
        ("<extra_id_3> and <extra_id_3>", "<extra_id_3> is there more than once"),
        ("<extra_id_0> <extra_id_100>", "<extra_id_100> is beyond the vocabulary: number blanks from 0 to 99"),
        ("<extra_id_0> <extra_id_9999999999>", "<extra_id_9999999999> is beyond the vocabulary: number blanks from"),
        ("<extra_id_" + "9" * 5000 + ">", f"<extra_id_{'9' * 20}...> is beyond the vocabulary: number blanks from"),
    ],
)
def test_parse_refuses(text, message):
    with pytest.raises(TextError, match=message):
        Template.parse(text)


def test_parse_follows_the_vocabulary():
    assert Template.parse("<extra_id_100>", extra_ids=101).sentinels == (100,)


@pytest.mark.parametrize("method", [Template.fill, Template.fit])
@pytest.mark.parametrize("spans", [[], ["a"], ["a", "b", "c"]])
def test_each_blank_needs_a_span(method, spans):
    with pytest.raises(TextError, match=rf"{len(spans)} spans? for 2 blanks"):
        method(Template.parse("<extra_id_0> <extra_id_1>"), spans)


@pytest.mark.parametrize(
    ("text", "spans", "filled"),
    [
        ("The <extra_id_0> walks", [" cute dog"], "The cute dog walks"),
        ("The<extra_id_0> walks", [" dog"], "The dog walks"),
        ("The\n<extra_id_0> walks", [" dog"], "The\ndog walks"),
        ("The\u200b<extra_id_0> walks", [" dog"], "The\u200bdog walks"),
        ("un<extra_id_0>able", ["believ"], "unbelievable"),
        ("un<extra_id_0>able", [" believ"], "un believable"),
        ("<extra_id_0> walks", [" He"], "He walks"),
        ("<extra_id_0> walks", ["He"], "He walks"),
        ("(<extra_id_0>)", ["again"], "(again)"),
        ("He <extra_id_0><extra_id_1>", [" walks", " home"], "He walks home"),
        ("He <extra_id_0><extra_id_1>", [" ", " home"], "He home"),
        ("<extra_id_0><extra_id_1>", ["", " Home"], "Home"),
        ("He <extra_id_0> home", [" walks "], "He walks home"),
        ("He <extra_id_0>.", [" walks "], "He walks ."),
        ("He <extra_id_0>", [" walks "], "He walks"),
        ("He  <extra_id_0>  home", ["  walks  "], "He   walks   home"),
        ("He <extra_id_0> home", [""], "He  home"),
        ("He<extra_id_0>home", [" "], "He home"),
    ],
)
def test_fit_drops_only_spaces_that_the_template_has(text, spans, filled):
    template = Template.parse(text)
    assert template.fill(template.fit(spans)) == filled


def test_fit_changes_nothing_but_outer_spaces():
    rng = random.Random(0)
    for _ in range(500):
        spans = ["".join(rng.choices("ab \n\t", k=rng.randrange(6))) for _ in range(3)]
        gaps = ["".join(rng.choices("xy \n", k=rng.randrange(3))) for _ in range(4)]
        fitted = Template(tuple(gaps), (0, 1, 2)).fit(spans)
        for span, fit in zip(spans, fitted, strict=True):
            assert fit in {
                span,
                span.removeprefix(" "),
                span.removesuffix(" "),
                span.removeprefix(" ").removesuffix(" "),
            }

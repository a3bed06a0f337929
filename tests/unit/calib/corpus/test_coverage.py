"""Which experts a corpus hardly reaches, and when it is refused for them."""

import pytest

from pointsman.bundle import ExpertCoverage
from pointsman.errors import CorpusError, OptionsError
from pointsman_calib.corpus.coverage import CoverageRule

TOKENS = {"encoder.block.1.layer.1.mlp": (100, 3, 64, 63), "decoder.block.1.layer.2.mlp": (70, 80, 90, 0)}


@pytest.mark.parametrize(
    ("fewest", "thin"),
    [
        (64, {"encoder.block.1.layer.1.mlp": (1, 3), "decoder.block.1.layer.2.mlp": (3,)}),
        (0, dict.fromkeys(TOKENS, ())),
    ],
)
def test_thin_experts_are_listed(fewest, thin):
    covered = CoverageRule(fewest_tokens=fewest).coverage(TOKENS, documents=9)
    assert covered == ExpertCoverage(fewest_tokens=fewest, tokens=TOKENS, thin=thin)


def test_a_corpus_that_reaches_too_few_experts_says_how_much_is_lacking():
    CoverageRule(most_thin=0.375).coverage(TOKENS, documents=9)
    with pytest.raises(CorpusError) as raised:
        CoverageRule(most_thin=0.2).coverage(TOKENS, documents=9)
    assert str(raised.value) == (
        "3 of 8 experts were given fewer than 64 tokens, and at most 20% may be: 2 of them need 62 tokens more; "
        "calibrate on more than these 9 documents, or accept fewer tokens with `fewest_tokens`, or more such "
        "experts with `most_thin`"
    )
    with pytest.raises(CorpusError, match="3 of them need 126 tokens more"):
        CoverageRule(most_thin=0.0).coverage(TOKENS, documents=9)


def test_a_dense_model_needs_no_coverage():
    assert CoverageRule(most_thin=0.0).coverage({}, documents=9).thin == {}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"fewest_tokens": -1}, "the fewest tokens of an expert are -1; give 0 or more"),
        ({"most_thin": 1.5}, "the share of thin experts is 1.5; give 0 to 1"),
    ],
)
def test_rules_that_cannot_be(options, sentence):
    with pytest.raises(OptionsError) as raised:
        CoverageRule(**options)
    assert str(raised.value) == sentence

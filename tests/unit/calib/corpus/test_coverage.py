"""Which experts a corpus hardly reaches, and when it is refused for them."""

import pytest

from pointsman.errors import CorpusError
from pointsman_calib.corpus.coverage import require_coverage, thin_experts

COUNTS = {"encoder.block.1.layer.1.mlp": (100, 3, 64, 63), "decoder.block.1.layer.2.mlp": (70, 80, 90, 0)}


def test_thin_experts_are_listed():
    assert thin_experts(COUNTS, 64) == {"encoder.block.1.layer.1.mlp": (1, 3), "decoder.block.1.layer.2.mlp": (3,)}
    assert thin_experts(COUNTS, 0) == dict.fromkeys(COUNTS, ())


def test_a_corpus_that_reaches_too_few_experts_says_how_much_is_lacking():
    require_coverage(COUNTS, fewest_tokens=64, most_thin=0.375, documents=9)
    with pytest.raises(CorpusError) as raised:
        require_coverage(COUNTS, fewest_tokens=64, most_thin=0.2, documents=9)
    assert str(raised.value) == (
        "3 of 8 experts were given fewer than 64 tokens, and at most 20% may be: 2 of them need 62 tokens more; "
        "calibrate on more than these 9 documents, or accept fewer tokens with --min-expert-tokens, or more such "
        "experts with --max-thin-experts"
    )
    with pytest.raises(CorpusError, match="3 of them need 126 tokens more"):
        require_coverage(COUNTS, fewest_tokens=64, most_thin=0.0, documents=9)


def test_a_dense_model_needs_no_coverage():
    require_coverage({}, fewest_tokens=64, most_thin=0.0, documents=9)

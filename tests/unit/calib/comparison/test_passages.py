"""The beginnings of documents, with what variants put in their first blanks."""

import numpy as np
import pytest
from text import SENTENCES

from pointsman.bundle import names, read_manifest
from pointsman.text.tokenizer import Tokenizer
from pointsman_calib.comparison.measuring.passages import BLANKS, PASSAGES, passages
from pointsman_calib.corpus.batches import Example


@pytest.fixture(scope="module")
def tokenizer(quantized_bundle):
    manifest = read_manifest(quantized_bundle)
    return Tokenizer.load(quantized_bundle / names.TOKENIZER, extra_ids=manifest.extra_ids)


@pytest.fixture(scope="module")
def words(tokenizer):
    """Ids of a sentence's pieces, without an end."""
    return tokenizer.encode(SENTENCES[0], add_eos=False)


def example(tokenizer, inputs, targets):
    ends = np.array([*inputs, tokenizer.eos_id]), np.array([*targets, tokenizer.eos_id])
    return Example("0" * 64, *ends, np.ones(len(targets) + 1, np.bool_))


def test_text_and_spans_make_the_document_again(tokenizer, corpus):
    """With what was cut out put back, characters and spaces are those of the text."""
    for passage in passages(tokenizer, corpus.examples, {"it": [one.targets.tolist() for one in corpus.examples]}):
        assert passage.fills["it"] == passage.original
        assert len(passage.segments) == len(passage.original) + 1
        first, *others = passage.segments
        text = first + "".join(span + after for span, after in zip(passage.original, others, strict=True))
        assert text in " ".join(SENTENCES)


def test_no_more_than_the_first(tokenizer, corpus):
    found = passages(tokenizer, corpus.examples, {"a": [[1]] * 10, "b": [[1]] * 7})
    assert len(found) == PASSAGES
    assert max(len(passage.original) for passage in found) == BLANKS
    assert len(passages(tokenizer, corpus.examples, {"a": [[1]] * 2})) == 2
    assert passages(tokenizer, corpus.examples, {}) == ()


def test_what_a_variant_may_write(tokenizer, words):
    """Blanks in another order, one twice, one that the text does not have, one never."""
    zero, one, two, nine = (tokenizer.sentinel_id(number) for number in (0, 1, 2, 9))
    document = example(tokenizer, [words[0], zero, words[1], one, words[2], two], [zero, words[3], one, two])
    output = [0, one, words[4], zero, words[5], nine, words[6], one, words[7], 1]
    (passage,) = passages(tokenizer, [document], {"it": [output]})
    assert passage.fills["it"] == (tokenizer.decode_span([words[5]]), tokenizer.decode_span([words[4]]), "")
    assert passage.original == (tokenizer.decode_span([words[3]]), "", "")
    assert passage.segments[-1] == ""

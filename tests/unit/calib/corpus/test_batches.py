"""Documents to examples to batches: what is used, what is passed over, and the same values however they are batched."""

import hashlib
import itertools
import json

import numpy as np
import pytest
from text import restored

from places import SHARED_DATA
from pointsman.errors import CorpusError, OptionsError
from pointsman.text.tokenizer import Tokenizer
from pointsman_calib.corpus.batches import Batch, Example, batches, batches_by_length, examples
from pointsman_calib.corpus.c4 import Document, read_documents
from pointsman_calib.corpus.corruption import longest_text
from pointsman_calib.corpus.documents import DocumentSet, refuse_overlap
from tiny_vocabulary import tiny_tokenizer, write_tiny_vocabulary

SHARED = SHARED_DATA
SENTENCES = ("The man walks in the park.", "A cute dog sleeps under a bridge!", "Nobody switches tracks; then home.")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tiny_tokenizer()


def documents(*texts: str) -> list[Document]:
    return [Document(text, f"c4.json:{number}") for number, text in enumerate(texts, start=1)]


TWENTY = documents(*(" ".join(itertools.islice(itertools.cycle(SENTENCES), 1 + n % 7)) + f" {n}" for n in range(20)))


def batched(tokenizer: Tokenizer, batch_size: int, *, seed: int = 0) -> list[Batch]:
    made = examples(TWENTY, tokenizer, seed=seed)
    return list(batches(made, batch_size=batch_size, pad_id=0, decoder_start_id=0))


def rows(batch: Batch) -> list[tuple[list[int], list[int], list[int], list[bool]]]:
    """A batch's rows without their padding."""
    return [
        (ids[kept > 0].tolist(), start[there].tolist(), labels[there].tolist(), spans[there].tolist())
        for ids, kept, start, labels, there, spans in zip(
            batch.input_ids,
            batch.attention_mask,
            batch.decoder_input_ids,
            batch.labels,
            batch.label_mask,
            batch.span_mask,
            strict=True,
        )
    ]


def test_an_example_holds_its_document(tokenizer):
    for document, example in zip(TWENTY, examples(TWENTY, tokenizer, seed=3), strict=True):
        assert example.document_sha256 == hashlib.sha256(document.text.encode()).hexdigest()
        assert restored(example, tokenizer) == tokenizer.encode(document.text, add_eos=False)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 20, 64])
def test_the_same_seed_gives_the_same_rows_whatever_the_batch_size(tokenizer, batch_size):
    made = batched(tokenizer, batch_size)
    sizes = [len(batch.input_ids) for batch in made]
    assert sizes == [batch_size] * (20 // batch_size) + [20 % batch_size] * (20 % batch_size > 0)
    alone = [row for batch in batched(tokenizer, 1) for row in rows(batch)]
    assert [row for batch in made for row in rows(batch)] == alone


def test_seeds_differ(tokenizer):
    one, other = ([row for batch in batched(tokenizer, 4, seed=seed) for row in rows(batch)] for seed in (0, 1))
    assert sum(a != b for a, b in zip(one, other, strict=True)) > 10


def test_a_document_is_corrupted_the_same_in_any_company(tokenizer):
    of = {example.document_sha256: example for example in examples(TWENTY, tokenizer, seed=5)}
    for example in examples(reversed(TWENTY[::3]), tokenizer, seed=5):
        assert example.inputs.tolist() == of[example.document_sha256].inputs.tolist()


def test_the_layout_of_a_batch():
    first = Example("a", np.array([5, 99, 1]), np.array([99, 6, 98, 1]), np.array([False, True, False, False]))
    second = Example("b", np.array([99, 1]), np.array([99, 7, 8, 98, 1]), np.array([False, True, True, False, False]))
    (batch,) = batches([first, second], batch_size=4, pad_id=0, decoder_start_id=2)
    assert batch.input_ids.tolist() == [[5, 99, 1], [99, 1, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch.decoder_input_ids.tolist() == [[2, 99, 6, 98, 0], [2, 99, 7, 8, 98]]
    assert batch.labels.tolist() == [[99, 6, 98, 1, 0], [99, 7, 8, 98, 1]]
    assert batch.label_mask.tolist() == [[True, True, True, True, False], [True] * 5]
    assert batch.span_mask.tolist() == [[False, True, False, False, False], [False, True, True, False, False]]


def test_types(tokenizer):
    for batch in batched(tokenizer, 6):
        for name in ("input_ids", "attention_mask", "decoder_input_ids", "labels"):
            assert getattr(batch, name).dtype == np.int64
        assert batch.label_mask.dtype == batch.span_mask.dtype == np.bool_
        shapes = {getattr(batch, name).shape for name in ("decoder_input_ids", "labels", "label_mask", "span_mask")}
        assert len(shapes) == 1
        assert batch.input_ids.shape == batch.attention_mask.shape


@pytest.mark.parametrize("window", [3, 10, 64])
def test_longer_documents_are_cut(tokenizer, window):
    made = list(examples(TWENTY, tokenizer, seed=0, window=window, too_long="cut"))
    assert max(example.inputs.size for example in made) == window
    for document, example in zip(TWENTY, made, strict=True):
        assert restored(example, tokenizer) == tokenizer.encode(document.text, add_eos=False)[: longest_text(window)]
        assert example.document_sha256 == document.sha256


def test_longer_documents_are_skipped(tokenizer):
    fitting = [d.sha256 for d in TWENTY if len(tokenizer.encode(d.text, add_eos=False)) <= longest_text(64)]
    assert 0 < len(fitting) < 20
    assert [example.document_sha256 for example in examples(TWENTY, tokenizer, seed=0, window=64)] == fitting


def test_documents_that_come_again_are_passed_over(tokenizer):
    """They say nothing new, and an interval would be narrower for them."""
    once = [example.document_sha256 for example in examples(TWENTY, tokenizer, seed=0)]
    again = [example.document_sha256 for example in examples([*TWENTY, *TWENTY[::-1]], tokenizer, seed=0)]
    assert again == once


def test_documents_that_cannot_be_used_are_passed_over(tokenizer):
    used = "The man walks in the park."
    passed_over = ["", " ", "x</s>y and so on", "<pad> dog dog", "fill <extra_id_0> here"]
    made = list(examples(documents(*passed_over, used), tokenizer, seed=0))
    assert [example.document_sha256 for example in made] == [hashlib.sha256(used.encode()).hexdigest()]


@pytest.mark.parametrize("is_special", [True, False])
def test_added_tokens_are_words(tmp_path, is_special):
    """Only what marks blanks, ends and padding keeps a text out; other tokens are kept and hidden like words."""
    write_tiny_vocabulary(tmp_path)
    added = {"content": "<name>", "special": is_special}
    first_id = tiny_tokenizer().vocab_size
    config = {"added_tokens_decoder": {str(first_id): added}, "extra_ids": 100}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.load(tmp_path)
    (name,) = tokenizer.encode("<name>", add_eos=False)
    texts = [f"{n}" + 9 * " <name> walks in the park. <unk> sleeps." for n in range(20)]
    made = list(examples(documents(*texts), tokenizer, seed=0))
    assert len(made) == 20
    assert [restored(one, tokenizer) for one in made] == [tokenizer.encode(text, add_eos=False) for text in texts]
    assert any(name in one.targets[one.span_mask] for one in made)
    assert any(name in one.inputs for one in made)


def test_only_as_many_documents_are_read_as_are_used(tokenizer):
    stream = iter(TWENTY)
    assert len(list(examples(stream, tokenizer, seed=0, limit=4))) == 4
    assert next(stream) is TWENTY[4]


def test_batches_read_one_batch_at_a_time(tokenizer):
    stream = iter(TWENTY)
    made = batches(examples(stream, tokenizer, seed=0), batch_size=3, pad_id=0, decoder_start_id=0)
    next(made)
    assert next(stream) is TWENTY[3]


@pytest.mark.parametrize(
    ("most_tokens", "places"),
    [
        (1, [[3], [1], [5], [0], [2], [4]]),
        (80, [[3], [1, 5], [0, 2, 4]]),
        (1000, [[3, 1, 5, 0, 2, 4]]),
    ],
)
def test_texts_of_similar_length_go_together(most_tokens, places):
    lengths = [(12, 3), (40, 9), (12, 3), (70, 18), (5, 6), (30, 10)]  # the targets count fourfold
    made = [
        Example(str(n), np.full(source, n), np.full(target, n), np.ones(target, bool))
        for n, (source, target) in enumerate(lengths)
    ]
    found = list(batches_by_length(made, most_tokens=most_tokens, pad_id=0, decoder_start_id=0))
    assert [batch.places.tolist() for batch in found] == places
    for batch in found:
        for row, place in enumerate(batch.places.tolist()):
            assert batch.input_ids[row][batch.attention_mask[row] == 1].tolist() == [place] * lengths[place][0]
            assert batch.labels[row][batch.label_mask[row]].tolist() == [place] * lengths[place][1]


def test_no_document_can_be_used(tokenizer):
    long = " ".join(SENTENCES * 20)
    with pytest.raises(CorpusError) as raised:
        list(examples(documents("", long, f"{long} {long}"), tokenizer, seed=0, window=32))
    assert str(raised.value) == (
        "of 3 documents none can be used: 2 of them longer than 34 tokens, 1 of them too short, or with special tokens "
        "such as <extra_id_0> or </s>; use a longer `window`, or cut long ones with `too_long='cut'`, or give other "
        "text"
    )


OPTIONS = {
    "seed": ({"seed": -1}, "^seed is -1: give 0 or more$"),
    "limit": ({"limit": 0}, "^documents is 0: give the number to use, 1 or more$"),
    "window": ({"window": 2}, "^the window is 2 tokens: give 3 or more"),
    "too_long": ({"too_long": "truncate"}, '^too_long is \'truncate\': give "skip" or "cut"$'),
    "sentinels": ({"window": 4096}, "need 228 sentinels and the vocabulary has 100: use a shorter window$"),
}


@pytest.mark.parametrize(("options", "sentence"), OPTIONS.values(), ids=OPTIONS.keys())
def test_options_out_of_range(tokenizer, options, sentence):
    with pytest.raises(OptionsError, match=sentence):
        examples(TWENTY, tokenizer, **({"seed": 0} | options))  # at once, before anything is read


def test_batch_size_out_of_range():
    with pytest.raises(OptionsError, match=r"^batch_size is 0: give 1 or more$"):
        batches([], batch_size=0, pad_id=0, decoder_start_id=0)


def test_a_set_of_documents_has_one_name_in_any_order(tokenizer):
    made = list(examples(TWENTY, tokenizer, seed=0))
    whole, turned = DocumentSet.of(made), DocumentSet.of([*reversed(made), made[0]])
    assert whole == turned
    assert len(whole) == 20
    assert whole.sha256 == turned.sha256
    assert whole.sha256 != DocumentSet.of(made[1:]).sha256
    assert DocumentSet(frozenset()).sha256 == hashlib.sha256(b"").hexdigest()


def test_calibration_and_evaluation_share_no_document(tokenizer):
    made = list(examples(TWENTY, tokenizer, seed=0))
    refuse_overlap(DocumentSet.of(made[:10]), DocumentSet.of(made[10:]))
    with pytest.raises(CorpusError) as raised:
        refuse_overlap(DocumentSet.of(made[:12]), DocumentSet.of(made[10:]))
    assert str(raised.value) == (
        "2 of 10 evaluation documents were calibrated on; evaluate on other files, "
        "for example C4's validation split, and calibrate on its train split"
    )


def test_another_seed_or_window_does_not_hide_that_a_document_is_shared(tokenizer):
    one = DocumentSet.of(examples(TWENTY, tokenizer, seed=0))
    other = DocumentSet.of(examples(TWENTY, tokenizer, seed=1, window=16, too_long="cut"))
    with pytest.raises(CorpusError, match=r"^20 of 20"):
        refuse_overlap(one, other)


def test_c4_as_qmoe_uses_it():
    """The first 128 validation documents that fit, as in its evaluation."""
    if not (SHARED / "c4").is_dir():
        pytest.skip("the C4 sample and T5's vocabulary are not beside the checkout")
    tokenizer = Tokenizer.load(SHARED / "t5")
    used = {}
    for split in ("train", "validation"):
        stream = read_documents([f"{SHARED}/c4/c4-{split}.*.json.gz"])
        used[split] = list(examples(stream, tokenizer, seed=0, limit=128))
        assert len(used[split]) == 128
        assert max(example.inputs.size for example in used[split]) <= 512
        assert max(example.targets.size for example in used[split]) <= 115
    refuse_overlap(DocumentSet.of(used["train"]), DocumentSet.of(used["validation"]))

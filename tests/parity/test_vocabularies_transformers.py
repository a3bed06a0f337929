"""Vocabularies as people have them, made on the spot: ids and texts against `AutoTokenizer` of transformers."""

import random
from itertools import product

import pytest
from sentencepiece import SentencePieceNormalizer
from tokenizers import normalizers
from transformers import AutoTokenizer

from parity.vocabulary_folders import FOLDERS, PARTS, is_switch, random_folder, reference_of
from pointsman.errors import TokenizerError
from pointsman.text.normalization import Normalizer
from pointsman.text.sentencepiece_model import SentencePieceModel
from pointsman.text.tokenizer import Tokenizer
from tiny_vocabulary import train_tiny_vocabulary


@pytest.fixture(scope="module", params=FOLDERS.values(), ids=FOLDERS)
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    request.param(folder)
    return is_switch(folder)


def texts(seed, count, before_sentinels):
    """Texts of words, tokens and odd characters."""
    rng = random.Random(seed)
    for _ in range(count):
        parts = rng.choices(PARTS, k=rng.randint(1, 14))
        yield "".join(before_sentinels + part if part.startswith("<extra_id") else part for part in parts)


def disagreements(ours, reference, seed=0, count=300):
    """Texts and ids of which the two do not make the same."""
    begin_words = ours.decode_span(ours.sentinel_ids).startswith(" ")  # mT5's, which need white space before them
    for text in texts(seed, count, " " if begin_words else ""):
        if ours.encode(text) != reference(text).input_ids:
            yield text
    rng = random.Random(seed)
    for _ in range(count):
        ids = rng.choices(range(ours.vocab_size + 3), k=rng.randrange(7))
        if ours.decode(ids) != reference.decode(ids, clean_up_tokenization_spaces=False):
            yield ids


def test_ids_and_texts(folder):
    ours, reference = Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    assert ours.vocab_size == len(reference)
    assert (ours.pad_id, ours.eos_id) == (reference.pad_token_id, reference.eos_token_id)
    assert [*disagreements(ours, reference)] == []


def test_sentinels_are_where_the_reference_has_them(folder):
    ours, reference = Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    assert len(ours.sentinel_ids) >= 20
    for n in range(len(ours.sentinel_ids)):
        *_, token_id = reference(f"a <extra_id_{n}>", add_special_tokens=False).input_ids
        assert token_id == ours.sentinel_id(n)
        assert ours.encode(f"<extra_id_{n}>", add_eos=False)[-1] == token_id


def test_what_a_bundle_holds_is_the_same_to_both(folder, tmp_path):
    ours = Tokenizer.load(folder)
    ours.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.vocabulary == ours.vocabulary
    assert again.sentinel_ids == ours.sentinel_ids
    assert [*disagreements(again, reference_of(tmp_path))] == []


@pytest.mark.parametrize("seed", range(60))
def test_folders_of_random_files(tmp_path, seed):
    """Whatever the files say: the same, or a sentence."""
    random_folder(tmp_path, random.Random(seed))
    try:
        ours = Tokenizer.load(is_switch(tmp_path))
    except TokenizerError:
        return
    reference = AutoTokenizer.from_pretrained(tmp_path)
    assert ours.vocab_size == len(reference)
    assert [*disagreements(ours, reference, seed, 100)] == []


BASES = ("ª", "ﬁ", "A", "\t", "™", "\u0600", "")


@pytest.mark.parametrize("rule", ["nmt_nfkc", "nmt_nfkc_cf"])
def test_every_character_is_normalized_alike_wherever_it_stands(rule):
    """After a character that changes, before a mark, and by itself."""
    charsmap = SentencePieceModel.parse(train_tiny_vocabulary(normalization_rule_name=rule)).charsmap
    ours, reference = Normalizer(charsmap), normalizers.Precompiled(charsmap)
    characters = [chr(c) for c in (*range(1, 0xD800), *range(0xE000, 0x1FFFF), *range(0xE0000, 0xE0200))]
    wrong = []
    for base, tail in product(BASES, ("", "\u0301")):
        for start in range(0, len(characters), 200):
            text = " ".join(base + c + tail for c in characters[start : start + 200])
            wrong += [(base, start, tail)] if ours(text) != reference.normalize_str(text) else []
    assert wrong == []


@pytest.mark.parametrize(("rules", "normalized"), [("63 302\t63\n302\t\n", "c"), ("302\t\n", "c\u0323")])
def test_an_entry_that_changes_nothing_but_what_is_dropped(tmp_path, rules, normalized):
    """SentencePiece's own normalizer gives the same by both tables."""
    (tmp_path / "rules.tsv").write_text(rules)
    model = train_tiny_vocabulary(normalization_rule_name="", normalization_rule_tsv=str(tmp_path / "rules.tsv"))
    charsmap, text = SentencePieceModel.parse(model).charsmap, "c\u0302\u0323"
    assert Normalizer(charsmap)(text) == normalizers.Precompiled(charsmap).normalize_str(text) == normalized
    theirs = SentencePieceNormalizer(model_proto=model, add_dummy_prefix=False, remove_extra_whitespaces=False)
    assert (theirs.normalize(text), theirs.normalize("c\u0302")) == ("c\u0323", "c")

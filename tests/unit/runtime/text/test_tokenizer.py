"""The tokenizer's own behaviour, on a vocabulary trained on the spot."""

import json
import time

import pytest

from pointsman.errors import TextError, TokenizerError
from pointsman.text.tokenizer import Tokenizer
from tiny_vocabulary import train_tiny_vocabulary, write_tiny_vocabulary


@pytest.fixture(scope="module")
def model() -> bytes:
    return train_tiny_vocabulary()


@pytest.fixture(scope="module")
def tokenizer(model):
    return Tokenizer(model)


def test_special_ids_and_sentinels_follow_t5(tokenizer):
    pieces = tokenizer.vocab_size - 100
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2)
    assert tokenizer.sentinel_ids == range(pieces, pieces + 100)
    assert tokenizer.sentinel_id(0) == pieces + 99
    assert tokenizer.sentinel_id(99) == pieces


@pytest.mark.parametrize("index", [-1, 100])
def test_sentinel_out_of_range_is_refused(tokenizer, index):
    with pytest.raises(TokenizerError, match=rf"no sentinel <extra_id_{index}>: the vocabulary has 100"):
        tokenizer.sentinel_id(index)


def test_eos_is_added_once_and_on_request(tokenizer):
    with_eos = tokenizer.encode("The man walks.")
    assert with_eos == [*tokenizer.encode("The man walks.", add_eos=False), tokenizer.eos_id]
    assert tokenizer.encode("") == [tokenizer.eos_id]
    assert tokenizer.encode("", add_eos=False) == []


@pytest.mark.parametrize("text", ["The man walks.", "un believable (again)!", "café Zoë", "oooooooo"])
def test_text_of_known_characters_survives_a_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_eos=False)) == text


@pytest.mark.parametrize(
    "variant",
    ["The man  walks", " The man walks ", "The\tman\r\nwalks", "The man\u00a0walks\u200b", "The\u0085man walks"],
)
def test_whitespace_has_one_meaning(tokenizer, variant):
    assert tokenizer.encode(variant) == tokenizer.encode("The man walks")


@pytest.mark.parametrize(
    "variant",
    ["The <extra_id_0> walks", "The<extra_id_0>walks", "The  <extra_id_0>\nwalks", "The\u00a0<extra_id_0> walks"],
)
def test_whitespace_around_a_sentinel_has_none(tokenizer, variant):
    the, walks = (tokenizer.encode(word, add_eos=False) for word in ("The", "walks"))
    assert tokenizer.encode(variant) == [*the, tokenizer.sentinel_id(0), *walks, tokenizer.eos_id]


@pytest.mark.parametrize("text", ["<extra_id_100>", "<extra_id_007>", "<extra_id_ 1>", "<EXTRA_ID_1>", "<extra_id_1"])
def test_what_only_looks_like_a_sentinel_is_text(tokenizer, text):
    assert not set(tokenizer.encode(text)) & set(tokenizer.sentinel_ids)


def test_neighbouring_unknown_characters_are_one_id(tokenizer):
    assert tokenizer.encode("😀😀😀", add_eos=False).count(tokenizer.unk_id) == 1


def test_words_too_long_to_remember_are_segmented_too(tokenizer):
    assert tokenizer.decode(tokenizer.encode("o" * 4_000, add_eos=False)) == "o" * 4_000


@pytest.mark.parametrize(
    "text", ["The man walks in the park. " * 37_000, "o" * 1_000_000, " " * 1_000_000, "<" * 1_000_000]
)
def test_a_million_characters_take_seconds_at_most(tokenizer, text):
    started = time.perf_counter()
    tokenizer.encode(text)
    assert time.perf_counter() - started < 10  # about half a second on one core; a quadratic method takes hours


def test_lone_surrogate_is_refused(tokenizer):
    with pytest.raises(TextError, match=r"character 2 is half a surrogate pair \(U\+D83D\)"):
        tokenizer.encode("ab\ud83d")


def test_decode_writes_special_tokens_and_keeps_inner_spaces(tokenizer):
    ids = [*tokenizer.encode("The<extra_id_1> man"), tokenizer.pad_id]
    assert tokenizer.decode(ids) == "The<extra_id_1> man</s><pad>"


def test_decode_span_keeps_the_space_before_a_word(tokenizer):
    ids = tokenizer.encode("The man", add_eos=False)
    assert tokenizer.decode_span(ids) == " The man"
    assert tokenizer.decode(ids) == "The man"


def test_padding_rows_of_the_embedding_have_no_text(tokenizer):
    assert tokenizer.decode([tokenizer.vocab_size, tokenizer.vocab_size + 27]) == ""


def test_negative_id_is_refused(tokenizer):
    with pytest.raises(TokenizerError, match="token id -1 is negative"):
        tokenizer.decode([5, -1])


@pytest.mark.parametrize("spare", [0, 28, 127])
def test_embedding_padded_to_a_multiple_fits(tokenizer, spare):
    tokenizer.check_vocab_size(tokenizer.vocab_size + spare)


@pytest.mark.parametrize("spare", [-1, 128])
def test_embedding_of_another_size_does_not(tokenizer, spare):
    with pytest.raises(TokenizerError, match=r"use the spiece\.model and the extra_ids of the same checkpoint"):
        tokenizer.check_vocab_size(tokenizer.vocab_size + spare)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, 100),
        ({}, 100),
        ({"extra_ids": 20}, 20),
        ({"extra_ids": 0}, 0),
        ({"additional_special_tokens": ["<extra_id_0>", "<extra_id_1>", "<other>"]}, 2),
        (
            {"added_tokens_decoder": {"9": {"content": "<extra_id_0>"}}, "additional_special_tokens": ["<extra_id_0>"]},
            1,
        ),
    ],
)
def test_load_counts_the_sentinels_in_the_configuration(tmp_path, config, expected):
    write_tiny_vocabulary(tmp_path)
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert len(Tokenizer.load(tmp_path).sentinel_ids) == expected
    assert len(Tokenizer.load(tmp_path / "spiece.model", extra_ids=7).sentinel_ids) == 7


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "cannot read .*tokenizer_config.json"),
        ('{"extra_ids": "many"}', "extra_ids is 'many'"),
        ('{"extra_ids": -1}', "extra_ids is -1"),
        (
            '{"extra_ids": true}',
            "extra_ids is True: give the number of sentinels, 100 for T5 and Switch, 10000 at most",
        ),
        ('{"extra_ids": 99999999999}', r"tokenizer_config.json: extra_ids is 99999999999: give the number"),
        ("[" * 100_000, "cannot read .*tokenizer_config.json .maximum recursion depth exceeded"),
    ],
)
def test_load_refuses_a_damaged_configuration(tmp_path, config, message):
    write_tiny_vocabulary(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(config)
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("place", ["spiece.model", "tokenizer_config.json"])
def test_load_refuses_what_the_system_does_not_let_it_read(tmp_path, place):
    write_tiny_vocabulary(tmp_path)
    (tmp_path / place).unlink(missing_ok=True)
    (tmp_path / place).mkdir()
    with pytest.raises(TokenizerError, match=rf"^cannot read .*{place} .*Is a directory"):
        Tokenizer.load(tmp_path)


def test_load_refuses_a_path_longer_than_the_system_allows(tmp_path):
    with pytest.raises(TokenizerError, match=r"^cannot read .*xxx \(File name too long\): the vocabulary is"):
        Tokenizer.load(tmp_path / ("x" * 5000))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot read .*spiece.model \(No such file.*tokenizer.json cannot stand in"),
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not a SentencePiece model"),
    ],
)
def test_load_refuses_what_is_no_vocabulary(tmp_path, content, message):
    if content is not None:
        (tmp_path / "spiece.model").write_bytes(content)
    with pytest.raises(TokenizerError, match=message) as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)

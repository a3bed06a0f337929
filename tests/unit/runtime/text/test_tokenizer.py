"""The tokenizer's own behaviour, on a vocabulary trained on the spot."""

import json
import pickle
import time
from itertools import chain

import pytest

from pointsman.errors import TextError, TokenizerError
from pointsman.text.tokenizer import Tokenizer
from tiny_vocabulary import tiny_tokenizer, write_tiny_vocabulary


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def with_tokens(folder, *tokens, **options):
    """A tokenizer to which tokens were added, given as `added_tokens_decoder` has them."""
    write_tiny_vocabulary(folder, **options)
    pieces = Tokenizer.load(folder).vocab_size
    decoder = {str(pieces + n): token for n, token in enumerate(tokens)}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    return Tokenizer.load(folder)


def test_special_ids_and_sentinels_follow_t5(tokenizer):
    pieces = tokenizer.vocab_size - 100
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2)
    assert tokenizer.sentinel_ids == tuple(range(pieces, pieces + 100))
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


@pytest.mark.parametrize("spare", [0, 28, 127, 128, 200, 100_000])
def test_rows_of_the_embedding_may_be_left_over(tokenizer, spare):
    tokenizer.check_vocab_size(tokenizer.vocab_size + spare)


def test_ids_outside_the_embedding_are_refused(tokenizer):
    ids = tokenizer.vocab_size
    message = f"^the vocabulary has {ids} ids, 100 of them sentinels, and the model's embedding {ids - 1} rows: use the"
    with pytest.raises(TokenizerError, match=message):
        tokenizer.check_vocab_size(ids - 1)


def test_it_can_be_pickled(tokenizer):
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.vocabulary == tokenizer.vocabulary
    assert again.encode("The <extra_id_0> walks.") == tokenizer.encode("The <extra_id_0> walks.")


def test_an_added_token_is_one_id(tmp_path):
    tokenizer = with_tokens(tmp_path, {"content": "[URL]"}, {"content": "<sep>", "special": True})
    url, sep = tokenizer.vocab_size - 2, tokenizer.vocab_size - 1
    the, man = (tokenizer.encode(word, add_eos=False) for word in ("The", "man"))
    assert tokenizer.encode("The [URL]<sep> man", add_eos=False) == [*the, url, sep, *man]
    assert tokenizer.decode([*the, url, sep, *man]) == "The[URL]<sep> man"
    assert tokenizer.encode_span(" The[URL] man") == [*the, url, *man]
    assert tokenizer.sentinel_ids == tuple(range(url - 100, url))


FLAGS = [
    ({}, "a[X]b", ["a", "[X]", "b"]),
    ({}, "[X", ["[X"]),
    ({"single_word": True}, "a[X]b [X]", ["a[X]b", "[X]"]),
    ({"single_word": True}, "é[X] ([X])", ["é[X]", "(", "[X]", ")"]),
    ({"normalized": False}, "Ａ [X] ［Ｘ］", ["Ａ", "[X]", "［Ｘ］"]),
    ({"normalized": True}, "Ａ [X] ［Ｘ］", ["Ａ", "[X]", "[X]"]),
]


@pytest.mark.parametrize(("flags", "text", "parts"), FLAGS)
def test_flags_say_where_an_added_token_matches(tmp_path, flags, text, parts):
    tokenizer = with_tokens(tmp_path, {"content": "[X]"} | flags)
    whole = tokenizer.vocab_size - 1
    ids = [[whole] if part == "[X]" else tokenizer.encode(part, add_eos=False) for part in parts]
    assert tokenizer.encode(text, add_eos=False) == [*chain.from_iterable(ids)]


@pytest.mark.parametrize("takes_space", [False, True])
def test_an_added_token_may_take_the_space_behind_it(tmp_path, takes_space):
    """A no-break space and a mark are a space together; the mark alone is unknown."""
    tokenizer = with_tokens(tmp_path, {"content": "[X]", "normalized": False, "rstrip": takes_space})
    ids = tokenizer.encode("[X]\u00a0\u0301", add_eos=False)
    assert (tokenizer.unk_id in ids) == takes_space


def test_the_longest_of_added_tokens_counts(tmp_path):
    tokens = [{"content": content, "normalized": False} for content in ("[", "[[", "[[[]", "[]")]
    tokenizer = with_tokens(tmp_path, *tokens)
    first = tokenizer.vocab_size - 4
    assert tokenizer.encode("[[[]", add_eos=False) == [first + 2]
    assert tokenizer.encode("[[[", add_eos=False) == [first + 1, first]
    assert tokenizer.encode("[][[]", add_eos=False)[:2] == [first + 3, first + 1]


def test_thousands_of_added_tokens_cost_no_time(tmp_path):
    tokenizer = with_tokens(tmp_path, *({"content": f"[token {n}]"} for n in range(5_000)))
    text = "The man [token 4999] walks [token in the park. " * 2_000
    started = time.perf_counter()
    ids = tokenizer.encode(text)
    assert ids.count(tokenizer.vocab_size - 1) == 2_000
    assert time.perf_counter() - started < 5  # a tenth of a second on one core


@pytest.mark.parametrize("start", ["", "▁"])
def test_sentinels_may_be_pieces(tmp_path, start):
    symbols = [f"{start}<extra_id_{n}>" for n in (1, 0, 2)]
    write_tiny_vocabulary(tmp_path, user_defined_symbols=symbols)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.sentinel_ids == (5, 3, 4)
    assert [tokenizer.sentinel_id(n) for n in range(3)] == [4, 3, 5]
    the, walks = (tokenizer.encode(word, add_eos=False) for word in ("The", "walks"))
    assert tokenizer.encode("The <extra_id_0> <extra_id_2> walks", add_eos=False) == [*the, 4, 5, *walks]


def test_a_sentinel_that_begins_words_is_found_inside_one(tmp_path):
    write_tiny_vocabulary(tmp_path, user_defined_symbols=["▁<extra_id_0>", "▁<extra_id_1>"])
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode("un<extra_id_0>able") == tokenizer.encode("un <extra_id_0>able")
    assert tokenizer.encode("<extra_id_0><extra_id_1>", add_eos=False) == [3, 4]
    with pytest.raises(TextError, match="cannot hold <extra_id_1>; leave it out"):
        tokenizer.encode_span(" a <extra_id_1>")


@pytest.mark.parametrize("special", ["</s>", "<pad>", "<unk>", "<extra_id_99>"])
def test_a_span_holds_no_structure(tokenizer, special):
    with pytest.raises(TextError, match=f"a span is plain text and cannot hold {special}; leave it out"):
        tokenizer.encode_span(f" a{special}")

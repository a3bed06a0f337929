"""Reading a vocabulary: which file says what, and the sentences about files that say something impossible."""

import json
import random

import pytest

from pointsman.errors import TokenizerError
from pointsman.text.tokenizer import Tokenizer
from tiny_vocabulary import tiny_tokenizer, train_tiny_vocabulary, write_tiny_vocabulary


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder as a bundle holds it."""
    folder = tmp_path_factory.mktemp("saved")
    tiny_tokenizer().save(folder)
    return folder


def write_json(folder, name, content):
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, 100),
        ({}, 100),
        ({"extra_ids": 20}, 20),
        ({"extra_ids": 0}, 0),
        ({"extra_ids": 2, "additional_special_tokens": ["<extra_id_0>", "<extra_id_1>"]}, 2),
        ({"additional_special_tokens": ["<other>"]}, 100),
        ({"extra_special_tokens": ["<extra_id_100>"]}, 101),
    ],
)
def test_the_number_of_sentinels(tmp_path, config, expected):
    write_tiny_vocabulary(tmp_path)
    if config is not None:
        write_json(tmp_path, "tokenizer_config.json", config)
    assert len(Tokenizer.load(tmp_path).sentinel_ids) == expected


def test_a_caller_knows_the_number_of_sentinels_best(tmp_path):
    path = write_tiny_vocabulary(tmp_path)
    write_json(tmp_path, "tokenizer_config.json", {"extra_ids": 20})
    assert len(Tokenizer.load(path, extra_ids=7).sentinel_ids) == 7
    assert len(Tokenizer.load(tmp_path, extra_ids=7).sentinel_ids) == 7


def test_what_is_saved_is_read_again(saved):
    tokenizer = tiny_tokenizer()
    assert sorted(path.name for path in saved.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    assert Tokenizer.load(saved).vocabulary == tokenizer.vocabulary
    assert Tokenizer.load(saved, extra_ids=100).vocabulary == tokenizer.vocabulary
    assert Tokenizer.load(saved / "tokenizer.json").vocabulary == tokenizer.vocabulary


def test_tokenizer_json_counts_and_spiece_model_does_not(tmp_path):
    retrained = tiny_tokenizer(extra_ids=5)
    retrained.save(tmp_path)
    write_tiny_vocabulary(tmp_path, vocab_size=60)
    assert Tokenizer.load(tmp_path).vocabulary == retrained.vocabulary
    assert Tokenizer.load(tmp_path / "spiece.model").vocabulary.pieces[:60] != retrained.vocabulary.pieces[:60]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "^cannot read .*tokenizer_config.json .*: fetch it again$"),
        ("[]", "^.*tokenizer_config.json is no JSON object: fetch it again$"),
        ('{"extra_ids": "many"}', "extra_ids is 'many'"),
        ('{"extra_ids": -1}', "extra_ids is -1"),
        (
            '{"extra_ids": true}',
            "extra_ids is True: give the number of sentinels, 100 for T5 and Switch, 10000 at most",
        ),
        ('{"extra_ids": 99999999999}', r"tokenizer_config.json: extra_ids is 99999999999: give the number"),
        ("[" * 100_000, "cannot read .*tokenizer_config.json .maximum recursion depth exceeded"),
        (
            '{"tokenizer_class": "BertTokenizer"}',
            (
                "^the tokenizer of .* is 'BertTokenizer', and Switch models are served with T5Tokenizer: if it is one "
                "by another name, set tokenizer_class in tokenizer_config.json to T5Tokenizer$"
            ),
        ),
        ('{"auto_map": {"AutoTokenizer": ["a.B", null]}}', "tokenizer_config.json sets auto_map, which is not supp"),
        ('{"split_special_tokens": true}', "sets split_special_tokens, which is not supported: remove it if the model"),
        ('{"added_tokens_decoder": [1]}', "added_tokens_decoder is no table of ids and tokens: fetch it again"),
        ('{"added_tokens_decoder": {"x": {}}}', "added_tokens_decoder is no table of ids and tokens"),
        ('{"added_tokens_decoder": {"900": {"lstrip": true}}}', "{'lstrip': True} is no added token; fetch the vocab"),
        ('{"added_tokens_decoder": {"900": {"content": "[X]", "lstrip": 1}}}', "is no added token"),
        ('{"added_tokens_decoder": {"900": {"content": "\\ud800"}}}', "is no added token"),
        (
            '{"added_tokens_decoder": {"900": {"content": "[X]"}}}',
            (
                r"spiece.model: the added token '\[X\]' is id 900 in the files, and transformers 5.23.0 makes it \d+: "
                r"give added tokens the ids that follow the \d+ pieces$"
            ),
        ),
        (
            '{"extra_special_tokens": [{"content": "[X]"}]}',
            "tokenizer_config.json: {'content': '.X.'} is no special token: fetch it again",
        ),
        ('{"extra_special_tokens": "[X]"}', "special tokens must be a list, not '.X.': fetch it again"),
        (
            '{"pad_token": null}',
            "the vocabulary has no <pad>, no </s> or no <unk>: it is not a T5 or Switch vocabulary",
        ),
    ],
)
def test_a_configuration_that_cannot_be_followed(tmp_path, config, message):
    write_tiny_vocabulary(tmp_path)
    write_json(tmp_path, "tokenizer_config.json", config)
    with pytest.raises(TokenizerError, match=message) as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_class_may_stand_in_the_model_s_configuration(tmp_path):
    write_tiny_vocabulary(tmp_path)
    write_json(tmp_path, "config.json", {"tokenizer_class": "ByT5Tokenizer"})
    with pytest.raises(TokenizerError, match="is 'ByT5Tokenizer'"):
        Tokenizer.load(tmp_path)
    write_json(tmp_path, "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer"})
    assert len(Tokenizer.load(tmp_path).sentinel_ids) == 100


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("added_tokens.json", {"[X]": "last"}, r"added_tokens.json: the id of '\[X\]' is 'last': fetch it again"),
        ("added_tokens.json", {"[X]": 4000}, r"'\[X\]' is id 4000 in the files, and transformers 5.23.0 makes it"),
        ("special_tokens_map.json", {"eos_token": {"content": 1}}, "special_tokens_map.json: .* is no added token"),
        ("special_tokens_map.json", "nonsense", "cannot read .*special_tokens_map.json"),
    ],
)
def test_an_older_file_that_cannot_be_followed(tmp_path, name, content, message):
    write_tiny_vocabulary(tmp_path)
    write_json(tmp_path, name, content)
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(tmp_path)


def test_sentinels_that_contradict_their_number(tmp_path):
    write_tiny_vocabulary(tmp_path, user_defined_symbols=["<extra_id_0>", "<extra_id_1>"])
    write_json(tmp_path, "tokenizer_config.json", {"extra_ids": 100})
    message = "spiece.model: extra_ids is 100, and 2 sentinels are among the special tokens: set extra_ids in"
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(tmp_path)


def test_a_token_that_is_nothing_when_it_is_normalized(tmp_path):
    write_tiny_vocabulary(tmp_path)
    pieces = Tokenizer.load(tmp_path).vocab_size
    write_json(tmp_path, "added_tokens.json", {"\x01": pieces})
    with pytest.raises(TokenizerError, match=r"the added token '\\x01' is empty when it is normalized: remove it"):
        Tokenizer.load(tmp_path)


def changed(**changes):
    def change(content):
        return content | changes

    return change


def in_model(**changes):
    def change(content):
        return content | {"model": content["model"] | changes}

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(model=None), "tokenizer.json: it has no model: fetch it again"),
        (in_model(type="BPE"), "its model is 'BPE': T5 and Switch have unigram models"),
        (in_model(vocab={"a": 1}), "its model has no list of pieces and scores: fetch it again"),
        (in_model(vocab=[["a", 10**400]] * 9), "its model has no list of pieces and scores"),
        (in_model(vocab=[["\ud800", 0.0]] * 9), "its model has no list of pieces and scores"),
        (in_model(vocab=[["a", 0.0]]), "it has 1 pieces: a T5 or Switch vocabulary has thousands"),
        (in_model(vocab=[["a", float("nan")]] * 9), "a piece has a score that is not finite: fetch the vocabulary"),
        (
            in_model(unk_id=0),
            "unknown characters are id 0 in it, and T5Tokenizer of transformers takes 2: use a T5 or Switch vocabulary",
        ),
        (changed(added_tokens=None), "it has no list of added tokens"),
        (changed(added_tokens=[{"content": "[X]"}]), "the id of an added token is None"),
        (
            changed(normalizer={"type": "Sequence", "normalizers": [{"type": "Strip"}, {"type": "Lowercase"}]}),
            (
                "its normalizer has a step 'Lowercase', which T5Tokenizer of transformers 5.23.0 passes over, so that "
                "ids would not be what the file says: use a T5 or Switch vocabulary$"
            ),
        ),
        (changed(normalizer={"type": "Replace", "pattern": {"String": "a"}}), "has a step 'Replace'"),
        (changed(normalizer={"type": "Sequence", "normalizers": [1]}), "one of its normalizers is damaged"),
        (changed(normalizer={"type": "Sequence", "normalizers": 1}), "one of its normalizers is damaged"),
        (
            changed(normalizer={"type": "Precompiled", "precompiled_charsmap": "?"}),
            "its table of normalization is damaged",
        ),
        (
            changed(normalizer={"type": "Precompiled", "precompiled_charsmap": "////"}),
            "the vocabulary's table of normalization is cut off: fetch the vocabulary again",
        ),
        (
            changed(normalizer={"type": "Sequence", "normalizers": [{"type": "Precompiled"}] * 2}),
            "it has two tables of normalization, of which T5Tokenizer uses one",
        ),
        (changed(pre_tokenizer={"type": "Digits"}), "its pre_tokenizer has a step 'Digits', which T5Tokenizer"),
    ],
)
def test_a_tokenizer_json_that_cannot_be_followed(saved, tmp_path, change, message):
    content = json.loads((saved / "tokenizer.json").read_text())
    write_json(tmp_path, "tokenizer.json", json.dumps(change(content)))
    write_json(tmp_path, "tokenizer_config.json", {"added_tokens_decoder": {}})
    with pytest.raises(TokenizerError, match=message) as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["spiece.model", "tokenizer.json", "tokenizer_config.json"])
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
        (
            None,
            (
                r"^cannot read .*spiece.model \(No such file or directory\): the vocabulary is the checkpoint's "
                r"tokenizer.json or spiece.model$"
            ),
        ),
        (b"", "spiece.model: the file is empty: fetch spiece.model again"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            r"not a SentencePiece model \(.*Parse.*\): fetch spiece.model ag",
        ),
        (b"\n\x04\n\x02", r"not a SentencePiece model \(.*Parse.*\): fetch spiece.model again"),
        (b"\xff" * 20, r"not a SentencePiece model \(.*Parse.*\): fetch spiece.model again"),
        (b"\x12\x00", r"not a SentencePiece model \(.*unk is not defined.*\): fetch spiece.model again"),
    ],
)
def test_load_refuses_what_is_no_vocabulary(tmp_path, content, message):
    if content is not None:
        (tmp_path / "spiece.model").write_bytes(content)
    with pytest.raises(TokenizerError, match=message) as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (b"\n\x03\n\x01s", r"not a SentencePiece model \(.*s is already defined.*\): fetch spiece.model again"),
        (b"\n\x04\n\x02\xff\xff", r"not a SentencePiece model \(.*\): fetch spiece.model again"),
        (b"\x1b\x1c", r"not a SentencePiece model \(byte \d+ begins a field of an unknown kind\): fetch spiece.model"),
    ],
    ids=["a piece twice", "a piece that is not UTF-8", "a field of an old kind"],
)
def test_load_refuses_a_vocabulary_with_something_wrong_behind_it(tmp_path, more, message):
    (tmp_path / "spiece.model").write_bytes(train_tiny_vocabulary() + more)
    with pytest.raises(TokenizerError, match=message) as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_load_refuses_a_path_that_does_not_exist(tmp_path):
    with pytest.raises(TokenizerError, match=r"^cannot read .*tokenizer.json \(No such file or directory\): the voc"):
        Tokenizer.load(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "bpe"}, "spiece.model: it is a BPE model: T5 and Switch have unigram models; use the spiece"),
        ({"model_type": "char"}, "it is a character model"),
        ({"pad_id": -1, "unk_id": 0}, "unknown characters are id 0 in it, and T5Tokenizer of transformers takes 2"),
    ],
)
def test_load_refuses_another_kind_of_vocabulary(tmp_path, options, message):
    write_tiny_vocabulary(tmp_path, **options)
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(tmp_path)


def test_a_damaged_file_is_refused_in_a_sentence_or_read(tmp_path):
    intact = train_tiny_vocabulary()
    rng = random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(intact[: rng.choice([len(intact), rng.randrange(len(intact))])])
        for _ in range(rng.choice([0, 1, 20])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        (tmp_path / "spiece.model").write_bytes(damaged)
        try:
            Tokenizer.load(tmp_path).encode("The café ﬁ e\u0301 <extra_id_0> \u212b.")
        except TokenizerError:
            refused += 1
    assert refused > 100

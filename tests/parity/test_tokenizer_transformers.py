"""Ids and texts against transformers' T5 tokenizer, with a vocabulary trained on the spot and with T5's own."""

import gzip
import itertools
import json
import random
import re
import shutil
import sys
import unicodedata
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from places import SHARED_DATA
from pointsman.text.template import Template
from pointsman.text.tokenizer import Tokenizer
from tiny_vocabulary import write_tiny_vocabulary

DATA = SHARED_DATA
CONFIG = {"model_type": "switch_transformers"}  # what makes AutoTokenizer choose T5Tokenizer

ODD = {
    "nothing": "",
    "spaces": "    ",
    "outer spaces": "  the man \n ",
    "runs of spaces": "the   man\t\twalks\r\n\r\nhome",
    "no-break spaces": "a\u00a0b\u202fc\u3000d\u2003e",
    "zero width": "a\u200bb\u200cc\u200dd\ufeffe\u2060f\u00adg",
    "next line": "a\u0085b",
    "line separators": "a\u2028b\u2029c\x0bd\x0ce\x1cf\x1fg",
    "nul": "x\x00y\x00",
    "control": "\x01a\x07b\x1bc\x7fd\x9f",
    "emoji": "a 😀😀 b👩‍👩‍👧x👍🏽🇳🇱",
    "word start": "▁ a▁b▁▁c ▁",
    "combining": "cafe\u0301 e\u0302\u0301 o\u0304\u0301\u0302 \u0301a \n\u0301b",
    "first entry wins": "\uff21\u0301 \u00a0\u0301x \ufb01\u0301 \u212b\u0301 \u1e61\u0323",
    "jamo": "\u1112\u1161\u11ab \ud55c",
    "devanagari": "\u0915\u094d\u0937\u093f \u0915\u093c",
    "half-width katakana": "\uff76\uff9e \uff8a\uff9f",
    "compatibility": "ﬁ ½ ① ℌ ™ ｆｕｌｌ ㎏ …",
    "astral": "𝔘𝔫𝔦 𐍈 𠀋",
    "special": "</s> a<pad>b <unk>c<unk><unk></s>",
    "special by normalisation": "x＜pad＞y ＜／s＞ ＜extra_id_5＞ 😀＜unk＞",
    "sentinels": "<extra_id_0><extra_id_1> a <extra_id_2>b<extra_id_3> <extra_id_99>",
    "repeated sentinel": "<extra_id_0> <extra_id_0>",
    "sentinel in a word": "un<extra_id_0>able, <extra_id_1>. (<extra_id_2>)",
    "not sentinels": "<extra_id_100> <extra_id_007> <extra_id_ 1> <extra_id_1 <EXTRA_ID_1>",
    "sentinel cuts a sequence": "e<extra_id_0>\u0301 \uff21<extra_id_1>\u0301",
    "ties": "oooooooo !!!!!!!!!!!! beautifully!!!!!! cooooooooooooooooooooooool aaaaaaaaaaaaaaa =========",
    "long word": "ab!o" * 2_000,
    "very long": "The man walks in the park. " * 4_000,
}


def tokenizers(folder: Path):
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tokenizers(write_tiny_vocabulary(tmp_path_factory.mktemp("tiny")).parent)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    if not (DATA / "t5/spiece.model").is_file():
        pytest.skip(f"T5's vocabulary is not at {DATA / 't5'}")
    folder = tmp_path_factory.mktemp("t5")
    for name in ("spiece.model", "tokenizer.json"):
        shutil.copyfile(DATA / "t5" / name, folder / name)
    return tokenizers(folder)


@pytest.fixture(params=["tiny", "real"])
def pair(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def c4():
    files = sorted((DATA / "c4").glob("*.json.gz"))
    if not files:
        pytest.skip(f"C4 samples are not at {DATA / 'c4'}")
    documents = []
    for file in files:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            documents += [json.loads(line)["text"] for line in lines]
    return documents


def reference_ids(reference, texts):
    return [encoding.ids for encoding in reference.backend_tokenizer.encode_batch(texts)]


def disagreements(pair, texts):
    ours, reference = pair
    return [text for text, ids in zip(texts, reference_ids(reference, texts), strict=True) if ours.encode(text) != ids]


def characters():
    points = (chr(point) for point in range(sys.maxunicode + 1) if not 0xD800 <= point < 0xE000)
    return [c for c in points if unicodedata.category(c) not in {"Cn", "Co"}]


def with_sentinels(text, rng):
    for index in rng.sample(range(110), rng.randint(1, 6)):  # from 100 on they are no sentinels
        at = rng.choice([0, len(text), rng.randint(0, len(text))])
        token = rng.choice([f"<extra_id_{index}>"] * 6 + ["</s>", "<pad>", "<unk>"]) * rng.choice([1, 1, 2])
        text = text[:at] + rng.choice(["", " ", "  ", "\n"]) + token + rng.choice(["", " "]) + text[at:]
    return text


def test_the_reference_is_transformers_t5(pair):
    ours, reference = pair
    assert type(reference).__name__ == "T5Tokenizer"
    assert ours.vocab_size == len(reference)
    assert (ours.pad_id, ours.eos_id, ours.unk_id) == (
        reference.pad_token_id,
        reference.eos_token_id,
        reference.unk_token_id,
    )
    names = [f"<extra_id_{n}>" for n in range(100)]
    assert [ours.sentinel_id(n) for n in range(100)] == reference.convert_tokens_to_ids(names)


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_input(pair, text):
    ours, reference = pair
    assert ours.encode(text) == reference(text).input_ids
    assert ours.encode(text, add_eos=False) == reference(text, add_special_tokens=False).input_ids


def test_every_character(pair):
    words = [f"a{c}b" for c in characters()]
    texts = [" ".join(words[start : start + 100]) for start in range(0, len(words), 100)]
    assert disagreements(pair, texts) == []


def test_characters_with_marks(pair):
    rng = random.Random(0)
    letters = characters()
    marks = [c for c in letters if unicodedata.category(c).startswith("M")][:300]
    texts = [rng.choice(letters) + "".join(rng.choices(marks, k=rng.randint(1, 3))) for _ in range(5_000)]
    assert disagreements(pair, texts) == []


def test_random_text_of_few_letters(pair):
    rng = random.Random(0)
    texts = ["".join(rng.choices("aoe!.<>▁ 1 x", k=rng.randint(1, 60))) for _ in range(5_000)]
    assert disagreements(pair, texts) == []


def test_every_document_of_c4(real, c4):
    assert len(c4) == 1_030
    assert disagreements(real, c4) == []


def test_every_document_of_c4_with_what_transformers_5_writes(real, c4, tmp_path):
    _, reference = real
    reference.save_pretrained(tmp_path)
    assert not (tmp_path / "spiece.model").exists()
    assert disagreements(tokenizers(tmp_path), c4) == []


def test_spiece_model_holds_what_tokenizer_json_does(real):
    ours, _ = real
    alone = Tokenizer.load(DATA / "t5/spiece.model").vocabulary
    assert alone.pieces == ours.vocabulary.pieces
    assert alone.scores == ours.vocabulary.scores
    assert alone.charsmap == ours.vocabulary.charsmap
    assert alone.added.keys() == ours.vocabulary.added.keys()


def test_documents_of_c4_decomposed(real, c4):
    assert disagreements(real, [unicodedata.normalize("NFD", text) for text in c4[::4]]) == []


def test_every_document_of_c4_with_sentinels(real, c4):
    rng = random.Random(0)
    assert disagreements(real, [with_sentinels(text, rng) for text in c4]) == []


def test_decode(pair):
    ours, reference = pair
    rng = random.Random(0)
    some = [0, 1, 2, 3, ours.sentinel_id(0), ours.sentinel_id(99), ours.vocab_size + 5]
    for _ in range(2_000):
        ids = [rng.choice([*some, rng.randrange(ours.vocab_size)]) for _ in range(rng.randrange(9))]
        assert ours.decode(ids) == reference.decode(ids)


def test_blanking_character_ranges_and_filling_them_restores_every_document(c4):
    rng = random.Random(0)
    for text in c4:
        cuts = sorted(rng.sample(range(len(text) + 1), 2 * rng.randint(1, min(50, len(text) // 2))))
        bounds = [0, *cuts, len(text)]
        parts = [text[start:stop] for start, stop in itertools.pairwise(bounds)]
        blanked = "".join(f"<extra_id_{i // 2}>" if i % 2 else part for i, part in enumerate(parts))
        assert Template.parse(blanked).fill(parts[1::2]) == text


def token_spans(count, rng):
    """Spans of one to five tokens, about 15 % of all, at most a hundred, never adjacent."""
    spans, start = [], rng.randint(0, 15)
    while start < count and len(spans) < 100:
        stop = min(count, start + rng.randint(1, 5))
        spans.append((start, stop))
        start = stop + rng.randint(1, 33)
    return spans


def character_ranges(offsets, spans):
    """The reference gives a lone "▁" the next token's first character too: a span ends where the next begins."""
    starts = [start for start, _ in offsets] + [offsets[-1][1]]
    return [(starts[start], min(offsets[stop - 1][1], starts[stop])) for start, stop in spans]


def is_unchanged(touched, ids, ours, reference):
    """Whether ids say all about the text they touch: no spaces but single ones, nothing normalised or unknown."""
    normalized = reference.backend_tokenizer.normalizer.normalize_str(touched)
    return normalized == touched and not re.search(r"\s\s|[^\S ]", touched) and ours.unk_id not in ids


def test_blanking_token_spans_and_filling_them_restores_what_normalisation_leaves(real, c4):
    ours, reference = real
    rng = random.Random(0)
    total = unchanged = restored = 0
    for text in c4:
        encoding = reference.backend_tokenizer.encode(text, add_special_tokens=False)
        spans = token_spans(len(encoding.ids), rng)
        tokens, offsets = encoding.ids, encoding.offsets
        ids = [tokens[start:stop] for start, stop in spans]
        edges = [0, *itertools.chain.from_iterable(character_ranges(offsets, spans)), len(text)]
        parts = [text[start:stop] for start, stop in itertools.pairwise(edges)]
        removed = parts[1::2]
        fitted = Template(tuple(parts[::2]), tuple(range(len(spans)))).fit([ours.decode_span(span) for span in ids])
        same = [fit == gone for fit, gone in zip(fitted, removed, strict=True)]
        touched = [text[offsets[start][0] : offsets[stop - 1][1]] for start, stop in spans]
        kept = [is_unchanged(*pair, ours, reference) for pair in zip(touched, ids, strict=True)]
        wrong = [(r, f) for r, f, s, k in zip(removed, fitted, same, kept, strict=True) if k and not s]
        assert wrong == [], "restored otherwise"
        total, unchanged, restored = total + len(spans), unchanged + sum(kept), restored + sum(same)
    assert total > 20_000
    assert restored >= unchanged > 0.95 * total

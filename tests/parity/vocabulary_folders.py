"""Folders with vocabularies as people have them: a table, and random ones."""

import json
import random
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import AutoTokenizer

from pointsman.text.sentencepiece_model import SentencePieceModel
from tiny_vocabulary import ENDS, PLACES, SUBJECTS, VERBS, train_tiny_vocabulary, write_tiny_vocabulary

Make = Callable[[Path], None]

SENTINELS = [f"<extra_id_{n}>" for n in range(20)]
FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")

PARTS = [
    *("The man", "The man walks", " in the park", "un", "able", "ab", "Ab", "a", "A", "é", "e\u0301", "café", "oooo"),
    *("<extra_id_0>", "<extra_id_3>", "<extra_id_19>", "<extra_id_99>", "<extra_id_500>"),
    *("[URL]", "[url]", "[X]", "<sep>", "<cls>", "<img>", "<s>", "</s>", "<pad>", "<unk>", "<0x41>", "＜sep＞"),
    *(f"[{n}]" for n in range(32)),
    *(
        "Ａb",
        "ＡＢ",
        "[３]",
        "walks",
        "cat's",
        " x",
        "x ",
        ".",
        "..",
        "\u0301",
        "ª\u0301",
        "①",
        "\u0600",
        "😀",
        "▁",
        "▁man",
    ),
    *(" ", "  ", "\n", "\t", "\u00a0", "\u200b", "\x85"),
]


def write_json(folder: Path, name: str, content: object) -> None:
    (folder / name).write_text(json.dumps(content))


def is_switch(folder: Path) -> Path:
    """Make `AutoTokenizer` take the folder for a Switch checkpoint's."""
    write_json(folder, "config.json", {"model_type": "switch_transformers"})
    return folder


def reference_of(folder: Path) -> Any:
    """What transformers makes of a folder."""
    return AutoTokenizer.from_pretrained(is_switch(folder))


def trained(**options: Any) -> Make:
    """A folder with `spiece.model` and nothing else."""

    def make(folder: Path) -> None:
        write_tiny_vocabulary(folder, **options)

    return make


def with_file(name: str, content: Any, **options: Any) -> Make:
    """A folder with `spiece.model` and one other file, whose content may be made of the number of ids."""

    def make(folder: Path) -> None:
        write_tiny_vocabulary(folder, **options)
        count = 100 + len(SentencePieceModel.parse((folder / "spiece.model").read_bytes()).pieces)
        write_json(folder, name, content(count) if callable(content) else content)

    return make


def saved(make: Make, *tokens: str | AddedToken) -> Make:
    """A folder as transformers 5 writes it, after tokens were added."""

    def make_and_save(folder: Path) -> None:
        make(folder)
        reference = reference_of(folder)
        reference.add_tokens([*tokens])
        for path in folder.iterdir():
            path.unlink()
        reference.save_pretrained(folder)

    return make_and_save


def retrained(*, stale_configuration: bool) -> Make:
    """A new tokenizer.json beside the old spiece.model, and maybe the old tokenizer_config.json."""

    def make(folder: Path) -> None:
        saved(trained())(folder)
        old = (folder / "tokenizer_config.json").read_text()
        texts = [f"{v} {s} {p}{e}" for s, v, p, e in product(SUBJECTS[:2], VERBS[:3], PLACES, ENDS)]
        new = reference_of(folder).train_new_from_iterator(texts, 250, show_progress=False)
        new.save_pretrained(folder)
        (folder / "spiece.model").write_bytes(train_tiny_vocabulary())
        if stale_configuration:
            (folder / "tokenizer_config.json").write_text(old)

    return make


def every_flag(count: int) -> dict[str, Any]:
    """Tokens with each combination of flags."""
    flags = product([False, True], repeat=len(FLAGS))
    tokens = (dict(zip(FLAGS, given, strict=True)) for given in flags)
    return {"added_tokens_decoder": {str(count + n): {"content": f"[{n}]"} | token for n, token in enumerate(tokens)}}


INSIDE = {"user_defined_symbols": [f"▁{sentinel}" for sentinel in SENTINELS]}
INSIDE_WITHOUT_START = {"user_defined_symbols": SENTINELS}
NO_MORE = {"extra_ids": 0}
FOLDERS = {
    "spiece.model": trained(),
    "saved by transformers 5": saved(trained()),
    "added_tokens.json": with_file("added_tokens.json", lambda count: {"[URL]": count, "ab": count + 1}),
    "added_tokens_decoder": with_file(
        "tokenizer_config.json", lambda count: {"added_tokens_decoder": {str(count): {"content": "[URL]"}}}
    ),
    "tokens with every flag": with_file("tokenizer_config.json", every_flag),
    "tokens with every flag, saved": saved(with_file("tokenizer_config.json", every_flag)),
    "tokens of normalized text, casefolded": with_file(
        "tokenizer_config.json", every_flag, normalization_rule_name="nmt_nfkc_cf"
    ),
    "tokens added in transformers 5": saved(trained(), "[URL]", "Ａb", "walks"),
    "a token that is a piece": with_file("tokenizer_config.json", {"added_tokens_decoder": {"30": {"content": "▁a"}}}),
    "a token with a role": with_file("tokenizer_config.json", {"bos_token": "<s>", "image_token": "<img>"}),
    "special tokens by transformers 4": with_file(
        "special_tokens_map.json", {"pad_token": {"content": "<pad>", "lstrip": True}, "sep_token": "<sep>"}
    ),
    "additional special tokens": with_file("tokenizer_config.json", {"additional_special_tokens": ["<sep>", "[URL]"]}),
    "extra special tokens": with_file("tokenizer_config.json", {"extra_special_tokens": ["<sep>"]}),
    "20 sentinels": with_file("tokenizer_config.json", {"extra_ids": 20}),
    "retrained": retrained(stale_configuration=False),
    "retrained, old configuration": retrained(stale_configuration=True),
    "user-defined symbols": trained(user_defined_symbols=["<sep>", "[X]", "ab"]),
    "control symbols": trained(control_symbols=["<cls>", "<sep>"]),
    "both, saved": saved(trained(control_symbols=["<cls>"], user_defined_symbols=["<sep>", "ab"])),
    "a symbol that a configuration does not name": with_file(
        "tokenizer_config.json", {"additional_special_tokens": ["[URL]"]}, user_defined_symbols=["<sep>"]
    ),
    "casefolded": trained(normalization_rule_name="nmt_nfkc_cf"),
    "not normalized": trained(normalization_rule_name="identity"),
    "not normalized, saved": saved(trained(normalization_rule_name="identity")),
    "pieces of several words": trained(normalization_rule_name="identity", split_by_whitespace=False),
    "bytes": trained(byte_fallback=True, vocab_size=500),
    "a start token": trained(bos_id=3),
    "sentinels inside": with_file("tokenizer_config.json", NO_MORE, **INSIDE),
    "sentinels inside, without a start": with_file("tokenizer_config.json", NO_MORE, **INSIDE_WITHOUT_START),
    "sentinels inside, saved": saved(with_file("tokenizer_config.json", NO_MORE, **INSIDE)),
    "sentinels inside, without a start, saved": saved(
        with_file("tokenizer_config.json", NO_MORE, **INSIDE_WITHOUT_START)
    ),
}


_SPECIAL = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
_CONTENTS = (
    "[URL]",
    "man",
    "Foo",
    "ＡＢ",
    "<sep>",
    "walk",
    "ab",
    " x",
    "x ",
    "\u0301e",
    "é",
    "<extra_id_3>",
    "..",
    "▁man",
)
_MODELS = (
    {},
    {"normalization_rule_name": "nmt_nfkc_cf"},
    {"normalization_rule_name": "identity"},
    {"user_defined_symbols": ["<sep>", "[X]", "ab"]},
    {"control_symbols": ["<cls>", "<sep>"]},
    {"bos_id": 3},
)


def random_folder(folder: Path, rng: random.Random) -> None:
    """A folder with some of the files that a vocabulary may have, whose contents may contradict each other."""
    write_tiny_vocabulary(folder, **rng.choice(_MODELS))
    pieces = len(SentencePieceModel.parse((folder / "spiece.model").read_bytes()).pieces)
    extra_ids = rng.choice([None, None, 100, 20])
    ids = pieces + (100 if extra_ids is None else extra_ids)
    if extra_ids is not None or rng.random() < 0.6:
        write_json(folder, "tokenizer_config.json", _random_configuration(rng, ids, extra_ids))
    if rng.random() < 0.3:
        roles = {role: rng.choice([token, _random_token(rng, token)]) for role, token in _SPECIAL.items()}
        write_json(folder, "special_tokens_map.json", roles)
    if rng.random() < 0.3:
        tokens = rng.sample(_CONTENTS, rng.randrange(4))
        write_json(folder, "added_tokens.json", {token: ids + n for n, token in enumerate(tokens)})
    if rng.random() < 0.5:
        tokens = [AddedToken(**_random_token(rng, token)) for token in rng.sample(_CONTENTS, 3)]
        saved(lambda _: None, *tokens)(folder)


def _random_configuration(rng: random.Random, ids: int, extra_ids: int | None) -> dict[str, Any]:
    config: dict[str, Any] = {} if extra_ids is None else {"extra_ids": extra_ids}
    for role, token in _SPECIAL.items():
        if rng.random() < 0.3:
            config[role] = rng.choice([token, {"__type": "AddedToken", **_random_token(rng, token)}])
    for key in ("additional_special_tokens", "extra_special_tokens"):
        if rng.random() < 0.2:
            config[key] = rng.choice([None, [], ["<sep>"], ["<img>", "[URL]"]])
    if rng.random() < 0.4:
        tokens = rng.sample(_CONTENTS, rng.randrange(5))
        config["added_tokens_decoder"] = {str(ids + n): _random_token(rng, token) for n, token in enumerate(tokens)}
    return config


def _random_token(rng: random.Random, content: str) -> dict[str, Any]:
    return {"content": content} | {flag: rng.random() < 0.3 for flag in FLAGS}

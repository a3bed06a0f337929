"""`tokenizer.json`, the file of the tokenizers library: a unigram model with all that goes before and after it.

This is what a bundle holds, written with the steps of `T5Tokenizer` (transformers 5.23.0), so that whoever has that
library reads the same ids out of it. `T5Tokenizer` itself takes pieces, table and added tokens from such a file and no
steps. So a file with others is refused, since what it means and what it gives would differ.
"""

import base64
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from pointsman.bundle import names
from pointsman.errors import TokenizerError
from pointsman.text.added_tokens import AddedToken
from pointsman.text.settings import EOS, PAD, UNK
from pointsman.text.vocabulary import UNK_ID, WORD_START, Vocabulary

_METASPACE: Final = {"type": "Metaspace", "replacement": WORD_START, "prepend_scheme": "always", "split": True}
# Steps that do nothing where text is split at white space.
_IDLE: Final = ("Strip", {"type": "Replace", "pattern": {"Regex": " {2,}"}})
_CHARSMAP: Final = "precompiled_charsmap"


@dataclass(frozen=True, slots=True)
class TokenizerJson:
    """What `T5Tokenizer` takes from the file.

    Attributes:
        pieces: In the order of their ids.
        scores: Their log-probabilities.
        charsmap: SentencePiece's table of normalization; empty for none.
        unk_id: What stands for unknown characters, as the file has it.
        added: The added tokens with the ids that the file gives them.
    """

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    charsmap: bytes
    unk_id: object
    added: tuple[tuple[int, AddedToken], ...]

    @classmethod
    def parse(cls, content: dict[str, Any]) -> Self:
        """Read the file's content.

        Raises:
            TokenizerError: It is damaged, or no vocabulary of T5's kind.
        """
        model = content.get("model")
        if not isinstance(model, dict):
            raise TokenizerError("it has no model: fetch it again")
        pieces, scores = _unigram(model)
        normalizers = [*_steps(content.get("normalizer"), "normalizers")]
        _refuse_others(normalizers, ("Precompiled", *_IDLE), "normalizer")
        _refuse_others([*_steps(content.get("pre_tokenizer"), "pretokenizers")], ("WhitespaceSplit", "Metaspace"), "")
        tables = [step for step in normalizers if step.get("type") == "Precompiled"]
        if len(tables) > 1:
            raise TokenizerError("it has two tables of normalization, of which T5Tokenizer uses one")
        charsmap = _decoded(tables[0]) if tables else b""
        return cls(pieces, scores, charsmap, model.get("unk_id"), _added(content.get("added_tokens")))


def write(vocabulary: Vocabulary, folder: Path, *, extra_ids: int) -> list[Path]:
    """Write a vocabulary as files that the tokenizers and the transformers library read.

    Args:
        vocabulary: What to write.
        folder: Is there already.
        extra_ids: How many sentinels it has.

    Returns:
        The files: `tokenizer.json`, and `tokenizer_config.json` with the names of special tokens.

    Raises:
        OSError: A file cannot be written.
    """
    config = {
        "tokenizer_class": "T5Tokenizer",
        PAD: vocabulary.pad,
        EOS: vocabulary.eos,
        UNK: vocabulary.unk,
        "extra_ids": extra_ids,
        "extra_special_tokens": [],  # all that there are stand in tokenizer.json
    }
    contents = {names.TOKENIZER_JSON: _document(vocabulary), names.TOKENIZER_CONFIG: config}
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
    return [folder / name for name in contents]


def _document(vocabulary: Vocabulary) -> dict[str, Any]:
    table = {"type": "Precompiled", _CHARSMAP: base64.b64encode(vocabulary.charsmap).decode()}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": token_id} | asdict(token) for token_id, token in sorted(vocabulary.added.items())],
        "normalizer": table if vocabulary.charsmap else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, _METASPACE]},
        "post_processor": _ending(vocabulary.eos, vocabulary.ids()[vocabulary.eos]),
        "decoder": _METASPACE,
        "model": {
            "type": "Unigram",
            "unk_id": UNK_ID,
            "vocab": [*zip(vocabulary.pieces, vocabulary.scores, strict=True)],
            "byte_fallback": False,
        },
    }


def _ending(eos: str, eos_id: int) -> dict[str, Any]:
    """The step that puts eos behind each text."""
    text, pair = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    end = {"SpecialToken": {"id": eos, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [text, end],
        "pair": [text, end, pair, end],
        "special_tokens": {eos: {"id": eos, "ids": [eos_id], "tokens": [eos]}},
    }


def _unigram(model: dict[str, Any]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    if model.get("type", "Unigram") != "Unigram":
        raise TokenizerError(f"its model is {model['type']!r}: T5 and Switch have unigram models")
    try:
        pieces, scores = zip(*model["vocab"], strict=True)
        return tuple(map(_text, pieces)), tuple(map(float, scores))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise TokenizerError("its model has no list of pieces and scores: fetch it again") from error


def _text(piece: object) -> str:
    if not isinstance(piece, str):
        raise TypeError("a piece is text")
    piece.encode()  # half a surrogate pair is no text
    return piece


def _steps(step: object, several: str) -> Iterator[dict[str, Any]]:
    """A step and, of a sequence, the steps inside it."""
    waiting = [step] if step is not None else []
    while waiting:
        one = waiting.pop()
        if not isinstance(one, dict) or not isinstance(one.get(several, []), list):
            raise TokenizerError(f"one of its {several} is damaged: fetch it again")
        if one.get("type") == "Sequence":
            waiting.extend(reversed(one.get(several, [])))
        else:
            yield one


def _refuse_others(steps: list[dict[str, Any]], known: tuple[str | dict[str, Any], ...], kind: str) -> None:
    for step in steps:
        if not any(step.get("type") == one or (isinstance(one, dict) and one.items() <= step.items()) for one in known):
            raise TokenizerError(
                f"its {kind or 'pre_tokenizer'} has a step {step.get('type')!r}, which T5Tokenizer of transformers "
                "5.23.0 passes over, so that ids would not be what the file says: use a T5 or Switch vocabulary"
            )


def _decoded(step: dict[str, Any]) -> bytes:
    try:
        return base64.b64decode(step[_CHARSMAP] or "", validate=True)
    except (KeyError, TypeError, ValueError) as error:
        raise TokenizerError("its table of normalization is damaged: fetch it again") from error


def _added(tokens: object) -> tuple[tuple[int, AddedToken], ...]:
    if not isinstance(tokens, list):
        raise TokenizerError("it has no list of added tokens: fetch it again")
    return tuple((_id_of(token), AddedToken.read(token, "added_tokens")) for token in tokens)


def _id_of(token: object) -> int:
    token_id = token.get("id") if isinstance(token, dict) else None
    if not isinstance(token_id, int) or token_id < 0:
        raise TokenizerError(f"the id of an added token is {token_id!r}: fetch it again")
    return token_id

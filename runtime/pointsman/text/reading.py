"""A checkpoint's vocabulary, read from its folder as the reference reads it.

The reference is what `AutoTokenizer` of transformers 5.23.0 makes of a Switch checkpoint: `T5Tokenizer`. Where a folder
holds both, `tokenizer.json` counts and `spiece.model` does not. Pieces, table of normalization and added tokens are
taken from the file; its other steps are `T5Tokenizer`'s own.

What differs, on purpose: a vocabulary that holds its sentinels (mT5's) gets no others where no file says how many,
where the reference would add 100 beyond the embedding; and files that give an added token another id than the
reference would are refused.
"""

import errno
import os
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from pointsman.bundle.names import SPIECE, TOKENIZER_JSON
from pointsman.errors import TokenizerError
from pointsman.text.added_tokens import AddedToken, Numbering
from pointsman.text.sentencepiece_model import SentencePieceModel
from pointsman.text.settings import EOS, PAD, UNK, Settings, checked_extra_ids, read_object
from pointsman.text.tokenizer_json import TokenizerJson
from pointsman.text.vocabulary import UNK_ID, WORD_START, Vocabulary

DEFAULT_EXTRA_IDS: Final = 100


def read_vocabulary(folder_or_file: Path, extra_ids: int | None = None) -> Vocabulary:
    """Read a vocabulary and what stands beside it.

    Args:
        folder_or_file: A folder with `tokenizer.json` or `spiece.model`, or one such file, under any name if it is a
            SentencePiece model.
        extra_ids: How many sentinels there are; None takes what the files say.

    Raises:
        TokenizerError: A file is missing, unreadable or no T5 vocabulary, or files contradict each other.
    """
    file = _vocabulary_file(folder_or_file)
    checked_extra_ids(extra_ids)
    return _from_json(file, extra_ids) if file.suffix == ".json" else _from_sentencepiece(file, extra_ids)


def _from_sentencepiece(file: Path, extra_ids: int | None) -> Vocabulary:
    content = _read(file)
    settings = Settings.read(file.parent, None)
    with _naming(file):
        model = SentencePieceModel.parse(content)
        _check_unknown(model.unk_id)
        has_sentinels = not {"<extra_id_0>", f"{WORD_START}<extra_id_0>"}.isdisjoint(model.pieces)
        count = _first(extra_ids, settings.extra_ids, 0 if has_sentinels else DEFAULT_EXTRA_IDS)
        pieces = model.pieces + tuple(f"<extra_id_{n}>" for n in reversed(range(count)))
        scores = model.scores + (0.0,) * count
        return _with_tokens(pieces, scores, model.charsmap, settings, _beside_sentinels(_symbols(model), count))


def _from_json(file: Path, extra_ids: int | None) -> Vocabulary:
    content = read_object(file)
    if content is None:
        raise _missing(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file)))
    with _naming(file):
        json = TokenizerJson.parse(content)
        _check_unknown(json.unk_id)
    settings = Settings.read(file.parent, json.added)
    with _naming(file):
        additional = _beside_sentinels(settings.additional, _first(extra_ids, settings.extra_ids, DEFAULT_EXTRA_IDS))
        return _with_tokens(json.pieces, json.scores, json.charsmap, settings, additional)


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Say in errors which file they are about."""
    try:
        yield
    except TokenizerError as error:
        raise TokenizerError(f"{file}: {error}") from error


def _check_unknown(unk_id: object) -> None:
    if unk_id != UNK_ID:
        raise TokenizerError(
            f"unknown characters are id {unk_id} in it, and T5Tokenizer of transformers takes {UNK_ID}: use a T5 or "
            "Switch vocabulary"
        )


def _symbols(model: SentencePieceModel) -> list[AddedToken]:
    """Pieces that were declared as symbols when the model was trained."""
    ids = sorted(model.control | model.user_defined)
    return [AddedToken(model.pieces[i], special=i in model.control) for i in ids]


def _first(*numbers: int | None) -> int:
    return next(number for number in numbers if number is not None)


def _beside_sentinels(tokens: Sequence[AddedToken] | None, extra_ids: int) -> list[AddedToken]:
    """Special tokens with the sentinels, which they may hold already."""
    own = [token for token in tokens or () if "<extra_id_" in token.content]
    if own and extra_ids and len(own) != extra_ids:
        raise TokenizerError(
            f"extra_ids is {extra_ids}, and {len(own)} sentinels are among the special tokens: set extra_ids in "
            "tokenizer_config.json to their number, or to 0"
        )
    return [*(tokens or ()), *(() if own else (AddedToken(f"<extra_id_{n}>") for n in range(extra_ids)))]


def _with_tokens(
    pieces: tuple[str, ...],
    scores: tuple[float, ...],
    charsmap: bytes,
    settings: Settings,
    additional: Sequence[AddedToken],
) -> Vocabulary:
    """Give all added tokens their ids, in the reference's order."""
    numbering = Numbering(pieces)
    named = [token for token in settings.named.values() if token is not None]
    roles = {token.content for token in named}
    for declared, token in sorted(settings.declared.items()):
        given = numbering.add(_in_role(token, roles))
        if given not in (None, declared) and token.content not in pieces:
            raise TokenizerError(
                f"the added token {token.content!r} is id {declared} in the files, and transformers 5.23.0 makes it "
                f"{given}: give added tokens the ids that follow the {len(pieces)} pieces"
            )
    known = {token.content for token in settings.declared.values()}
    for token in [*named, *(additional if settings.extra is None else settings.extra)]:
        if token.content not in known:
            numbering.add(_in_role(token, roles))
    pad, eos, unk = (_name(settings.named[role]) for role in (PAD, EOS, UNK))
    return Vocabulary(pieces, scores, charsmap, numbering.tokens, pad, eos, unk)


def _name(token: AddedToken | None) -> str:
    if token is None or not token.content:
        raise TokenizerError("the vocabulary has no <pad>, no </s> or no <unk>: it is not a T5 or Switch vocabulary")
    return token.content


def _in_role(token: AddedToken, roles: Container[str]) -> AddedToken:
    return replace(token, special=token.special or token.content in roles)


def _vocabulary_file(path: Path) -> Path:
    try:
        if not path.is_dir():
            return path
    except OSError as error:
        raise _missing(error) from error
    return path / (TOKENIZER_JSON if os.path.lexists(path / TOKENIZER_JSON) else SPIECE)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _missing(error) from error


def _missing(error: OSError) -> TokenizerError:
    return TokenizerError(
        f"cannot read {error.filename} ({error.strerror}): the vocabulary is the checkpoint's {TOKENIZER_JSON} or "
        f"{SPIECE}"
    )

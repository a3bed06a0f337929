"""What a SentencePiece file (`spiece.model`) holds, read without the library that wrote it.

The file is one protocol buffer message, `ModelProto` of SentencePiece's `sentencepiece_model.proto`; five of its fields
say all that a unigram vocabulary is. How messages are encoded: https://protobuf.dev/programming-guides/encoding/
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

from pointsman.bundle.names import SPIECE
from pointsman.errors import TokenizerError

NORMAL: Final = 1  # kinds of pieces
CONTROL: Final = 3
USER_DEFINED: Final = 4

_UNIGRAM: Final = 1
_MODELS: Final = {2: "BPE", 3: "word", 4: "character"}

# Field numbers, each in its own message.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT, _SCORE, _KIND = 1, 2, 3
_MODEL_TYPE, _UNK_ID = 3, 40
_CHARSMAP = 2

_VARINT, _EIGHT_BYTES, _DELIMITED, _FOUR_BYTES = 0, 1, 2, 5  # how a field's value is encoded
_LONGEST_VARINT: Final = 10  # bytes


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """A unigram model.

    Attributes:
        pieces: In the order of their ids.
        scores: Their log-probabilities, float32 as stored.
        kinds: `NORMAL`, `CONTROL`, `USER_DEFINED` or another number of SentencePiece's.
        unk_id: What stands for unknown characters.
        charsmap: The table of normalization, as `pointsman.text.normalization` reads it; empty for none.
    """

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    kinds: tuple[int, ...]
    unk_id: int
    charsmap: bytes

    @classmethod
    def parse(cls, model: bytes) -> Self:
        """Read the content of a file.

        Raises:
            TokenizerError: It is no SentencePiece model, or not a unigram model.
        """
        if not model:
            raise TokenizerError(f"the file is empty: fetch {SPIECE} again")
        try:
            kind, parsed = cls._parse(model)
        except (ValueError, struct.error) as error:
            raise TokenizerError(f"not a SentencePiece model ({error}): fetch {SPIECE} again") from error
        if kind != _UNIGRAM:
            raise TokenizerError(
                f"it is a {_MODELS.get(kind, 'unknown')} model: T5 and Switch have unigram models; use the {SPIECE} "
                "that the checkpoint was trained with"
            )
        return parsed

    @classmethod
    def _parse(cls, model: bytes) -> tuple[int, Self]:
        """The kind of model, and what it holds."""
        pieces, trainer, normalizer = [], {_MODEL_TYPE: _UNIGRAM, _UNK_ID: 0}, {_CHARSMAP: b""}
        for number, value in _fields(model):
            if number == _PIECES:
                pieces.append(_piece(_bytes(value)))
            elif number == _TRAINER:
                trainer.update((n, v) for n, v in _fields(_bytes(value)) if isinstance(v, int))
            elif number == _NORMALIZER:
                normalizer.update((n, v) for n, v in _fields(_bytes(value)) if isinstance(v, bytes))
        if not pieces:
            raise ValueError("it has no pieces")
        texts, scores, kinds = zip(*pieces, strict=True)
        return trainer[_MODEL_TYPE], cls(texts, scores, kinds, trainer[_UNK_ID], normalizer[_CHARSMAP])


def _piece(message: bytes) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, NORMAL
    for number, value in _fields(message):
        if number == _TEXT:
            text = _bytes(value).decode()
        elif number == _SCORE:
            (score,) = struct.unpack("<f", _bytes(value))
        elif number == _KIND and isinstance(value, int):
            kind = value
    return text, score, kind


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field: an int of a varint, bytes of anything else."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        encoding = key & 7
        if encoding == _VARINT:
            number, at = _varint(message, at)
            yield key >> 3, number
            continue
        if encoding == _DELIMITED:
            size, at = _varint(message, at)
        elif encoding in (_FOUR_BYTES, _EIGHT_BYTES):
            size = 4 if encoding == _FOUR_BYTES else 8
        else:
            raise ValueError(f"byte {at} begins no field")
        if at + size > end:
            raise ValueError("it is cut off")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """An integer of seven bits a byte, lowest first, and the place after it."""
    value = 0
    for shift in range(_LONGEST_VARINT):
        if at >= len(message):
            raise ValueError("it is cut off")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:  # the highest bit says that more follows
            return value, at
    raise ValueError(f"byte {at} ends no number")


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a field is a number where bytes belong")
    return value

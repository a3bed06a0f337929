"""What a SentencePiece file (`spiece.model`) holds.

The library loads the file: it says whether it is valid, and gives pieces, scores and which ones are control symbols.
Its Python interface does not give three things: the kind of model, the table of normalization, and which pieces are
user-defined symbols. These are read from the file, a protocol buffer message: `ModelProto` of SentencePiece's
`sentencepiece_model.proto`, encoded as https://protobuf.dev/programming-guides/encoding/ says.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Self

from sentencepiece import SentencePieceProcessor

from pointsman.bundle.names import SPIECE
from pointsman.errors import TokenizerError

_UNIGRAM: Final = 1
_MODELS: Final = {2: "BPE", 3: "word", 4: "character"}

# Field numbers, each in its own message.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_KIND, _MODEL_TYPE, _CHARSMAP = 3, 3, 2

_USER_DEFINED: Final = 4
_MARKED: Final = bytes([_KIND << 3, _USER_DEFINED])  # is in every user-defined piece, and in few others

_VARINT, _DELIMITED = 0, 2  # how a field's value is encoded
_FIXED: Final = {1: 8, 5: 4}  # others, and their bytes


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """A unigram model.

    Attributes:
        pieces: In the order of their ids.
        scores: Their log-probabilities, float32 as stored.
        control: Ids of pieces that were declared as control symbols when the model was trained.
        user_defined: Ids of pieces that were declared as user-defined symbols.
        unk_id: What stands for unknown characters.
        charsmap: The table of normalization, as `pointsman.text.normalization` reads it; empty for none.
    """

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    control: frozenset[int]
    user_defined: frozenset[int]
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
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise TokenizerError(f"not a SentencePiece model ({reason}): fetch {SPIECE} again") from error
        if kind != _UNIGRAM:
            raise TokenizerError(
                f"it is a {_MODELS.get(kind, 'unknown')} model: T5 and Switch have unigram models; use the {SPIECE} "
                "that the checkpoint was trained with"
            )
        return parsed

    @classmethod
    def _parse(cls, model: bytes) -> tuple[int, Self]:
        """The kind of model, and what it holds."""
        processor = SentencePieceProcessor(model_proto=model)
        ids = [*range(processor.get_piece_size())]
        fields = [*_fields(model)]
        trainer, normalizer = (_fields(b"".join(_messages(fields, number))) for number in (_TRAINER, _NORMALIZER))
        return _number(trainer, _MODEL_TYPE, _UNIGRAM), cls(
            pieces=tuple(processor.id_to_piece(ids)),
            scores=tuple(processor.get_score(ids)),
            control=frozenset(i for i in ids if processor.is_control(i)),
            user_defined=frozenset(i for i, piece in enumerate(_messages(fields, _PIECES)) if _is_user_defined(piece)),
            unk_id=processor.unk_id(),
            charsmap=[b"", *_messages(normalizer, _CHARSMAP)][-1],
        )


def _is_user_defined(piece: bytes) -> bool:
    return _MARKED in piece and _number(_fields(piece), _KIND, 0) == _USER_DEFINED


def _messages(fields: Iterable[tuple[int, int | bytes]], number: int) -> list[bytes]:
    return [value for n, value in fields if n == number and isinstance(value, bytes)]


def _number(fields: Iterable[tuple[int, int | bytes]], number: int, default: int) -> int:
    """The last value of a field counts."""
    return [default, *(value for n, value in fields if n == number and isinstance(value, int))][-1]


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field in a valid message: an int of a varint, bytes of anything else."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        encoding = key & 7
        if encoding not in (_VARINT, _DELIMITED, *_FIXED):
            raise ValueError(f"byte {at} begins a field of an unknown kind")
        value, at = (_FIXED[encoding], at) if encoding in _FIXED else _varint(message, at)
        if encoding == _VARINT:
            yield key >> 3, value
        else:
            yield key >> 3, message[at : at + value]
            at += value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """An integer of seven bits a byte, lowest first, and the place after it."""
    value = shift = 0
    while (byte := message[at]) & 0x80:  # the highest bit says that more follows
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | byte << shift, at + 1

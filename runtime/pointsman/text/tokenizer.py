"""Text to token ids and back, as T5 and Switch Transformers were trained: SentencePiece plus sentinels.

The reference is ``T5Tokenizer`` of transformers 5.23.0, which is what ``AutoTokenizer`` returns for
google/switch-base-8. It builds one pipeline, whether the folder holds ``tokenizer.json``, ``spiece.model``
or both:

1. ``<extra_id_n>``, ``</s>``, ``<pad>`` and ``<unk>`` in the text become their own id and cut it into fragments;
2. a fragment is normalised by the model's table (NFKC and a little more: every kind of space becomes " ");
3. it is split at whitespace, which is lost, and every word is given a leading "▁";
4. the unigram model segments each word, and neighbouring unknown characters become one ``<unk>``.

So whitespace around a sentinel has no meaning: "un<extra_id_0>able" and "un <extra_id_0> able" have the same
ids. Variants differ here: tokenizers with ``legacy=False`` (transformers 4) put no "▁" after a sentinel. The
``lstrip`` and ``rstrip`` flags that some ``tokenizer.json`` files give to sentinels change no ids, save where
a sentinel, a no-break space and a combining mark follow each other; they are not applied.

SentencePiece supplies the pieces and the normalisation table. Its own ``encode`` is not used, because it
differs from the reference:

- it sums scores in float32, so that equally likely segmentations ("oooo" + "o", "o" + "oooo") fall either
  way, in one or two of a thousand web pages; here they are summed in float64, word by word;
- U+0085 (next line) is an unknown character to it, whitespace to the reference;
- the reference looks up a character and its marks as a whole only up to 5 UTF-8 bytes, and then takes the
  shortest entry that matches, dropping the rest; anything longer is looked up character by character;
- special tokens that only appear by normalisation ("＜pad＞" in full-width letters) are pieces to the reference.

What still differs: here, a character and its marks is just that; Unicode's rules for Arabic number signs
before a letter and for emoji joined by U+200D are not followed when a mark comes after those.
"""

import functools
import itertools
import json
import math
import operator
import re
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, Self

import sentencepiece

from pointsman.bundle import Architecture
from pointsman.bundle.names import SPIECE
from pointsman.errors import TextError, TokenizerError

CONFIG_FILE: Final = "tokenizer_config.json"
DEFAULT_EXTRA_IDS: Final = 100
_MOST_EXTRA_IDS: Final = 10_000

_WORD_START: Final = "▁"  # U+2581, what SentencePiece writes for the space before a word
_UNKNOWN_PENALTY: Final = 10.0  # how far below the worst piece an unknown character scores, as in SentencePiece
_ONLY_A_PREFIX: Final = -1
_CACHED_WORDS: Final = 1 << 14  # a few MB; text holds rare words without end
_LONGEST_CACHED_WORD: Final = 64  # characters
_ROW_MULTIPLE: Final = 128  # embeddings are padded to a multiple of this: 32100 ids, 32128 rows
_SENTINEL: Final = re.compile(r"<extra_id_(?:0|[1-9][0-9]*)>")

_FIRST_MARK: Final = "\u0300"
_MARK_CATEGORIES: Final = frozenset({"Mn", "Mc", "Me"})
# Characters of other categories that Unicode's grapheme rules (UAX #29) attach to the one before.
_ATTACHED: Final = frozenset("\u0e33\u0eb3\u200c\u200d\uff9e\uff9f\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff")
_CONTROL_CATEGORIES: Final = frozenset({"Cc", "Cf", "Zl", "Zp"})  # no mark attaches to these
_SHORT_CLUSTER: Final = 5  # UTF-8 bytes up to which the reference looks up a cluster as a whole


class Tokenizer:
    """T5's tokenizer: a SentencePiece unigram model and, after its pieces, ``extra_ids`` sentinels.

    Attributes:
        vocab_size: Pieces and sentinels (32,100 for the released models; their embedding has 32,128 rows).
        sentinel_ids: The sentinels' ids, ascending: the last is ``<extra_id_0>``.
        white_space_ids: Ids whose text is nothing but white space, such as "▁" by itself.
        pad_id: ``<pad>``, 0. Also the decoder's start token.
        eos_id: ``</s>``, 1.
        unk_id: ``<unk>``, 2.
    """

    def __init__(self, model: bytes, *, extra_ids: int = DEFAULT_EXTRA_IDS) -> None:
        """Build a tokenizer from a serialized SentencePiece model.

        Args:
            model: What ``spiece.model`` holds.
            extra_ids: The number of sentinels.

        Raises:
            TokenizerError: ``model`` is no T5 vocabulary, or ``extra_ids`` is no number of sentinels.
        """
        _check_extra_ids(extra_ids)
        processor = _parse(model)
        pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
        scores = [processor.get_score(i) for i in range(len(pieces))]
        _refuse_sentinel_pieces(pieces)

        self.pad_id: Final[int] = processor.pad_id()
        self.eos_id: Final[int] = processor.eos_id()
        self.unk_id: Final[int] = processor.unk_id()
        self.sentinel_ids: Final = range(len(pieces), len(pieces) + extra_ids)
        self._pieces = pieces + [f"<extra_id_{n}>" for n in reversed(range(extra_ids))]
        self.white_space_ids: Final = tuple(i for i in range(len(pieces)) if not self.decode_span([i]).strip())
        self._special = {self._pieces[i]: i for i in (self.pad_id, self.eos_id, self.unk_id, *self.sentinel_ids)}
        self._special_pattern = re.compile("(" + "|".join(map(re.escape, self._special)) + ")")
        self._normalize = _Normalizer(model)
        self._segment = _Unigram(self._pieces, scores + [0.0] * extra_ids, self.unk_id)

    @classmethod
    def load(cls, folder_or_file: str | Path, *, extra_ids: int | None = None) -> Self:
        """Read ``spiece.model``, and the number of sentinels from a ``tokenizer_config.json`` beside it.

        Args:
            folder_or_file: A folder that holds ``spiece.model``, or such a file under any name.
            extra_ids: The number of sentinels; None takes the configuration's, or 100.

        Raises:
            TokenizerError: A file is missing, unreadable or no T5 vocabulary.
        """
        path = Path(folder_or_file)
        try:
            file = path / SPIECE if path.is_dir() else path
            model = file.read_bytes()
        except OSError as error:
            raise TokenizerError(
                f"cannot read {error.filename} ({error.strerror}): the vocabulary is the checkpoint's SentencePiece "
                f"file, {SPIECE}; tokenizer.json cannot stand in for it"
            ) from error
        if extra_ids is None:
            extra_ids = _configured_extra_ids(file.parent / CONFIG_FILE)
        try:
            return cls(model, extra_ids=extra_ids)
        except TokenizerError as error:
            raise TokenizerError(f"{file}: {error}") from error

    @property
    def vocab_size(self) -> int:
        """Pieces and sentinels."""
        return len(self._pieces)

    def encode(self, text: str, *, add_eos: bool = True) -> list[int]:
        """Return the ids of ``text``; ``<extra_id_n>``, ``</s>``, ``<pad>`` and ``<unk>`` in it are special.

        Raises:
            TextError: ``text`` holds a lone surrogate, so it is not Unicode text.
        """
        _refuse_surrogates(text)
        ids: list[int] = []
        for fragment in self._special_pattern.split(text):
            special = self._special.get(fragment)
            if special is not None:
                ids.append(special)
                continue
            for word in self._normalize(fragment).split():
                ids.extend(self._segment(_WORD_START + word))
        return [*ids, self.eos_id] if add_eos else ids

    def encode_span(self, text: str) -> list[int]:
        """Return the ids of ``text`` as part of a longer text: without a leading space it continues a word.

        The inverse of `decode_span`, as far as normalisation lets it be: T5 cuts spans out of encoded text, so a span
        that does not begin a word has no "▁", which `encode` would give it.

        Raises:
            TextError: ``text`` holds a special token or a lone surrogate.
        """
        _refuse_surrogates(text)
        special = self._special_pattern.search(text)
        if special is not None:
            raise TextError(f"a span is plain text and cannot hold {special[0]}; leave it out")
        normalized = self._normalize(text)
        first = _WORD_START if normalized[:1].isspace() else ""
        starts = itertools.chain([first], itertools.repeat(_WORD_START))
        words = map(operator.add, starts, normalized.split())
        return [token for word in words for token in self._segment(word)]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids``, special tokens written out; the first word's space is dropped.

        Ids of the embedding's padding rows have no text. Equal to the reference's ``decode``.

        Raises:
            TokenizerError: An id is negative.
        """
        return self.decode_span(ids).removeprefix(" ")

    def decode_span(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids`` as part of a longer text: "▁" on the first piece gives a leading space.

        Raises:
            TokenizerError: An id is negative.
        """
        return "".join(map(self._piece, ids)).replace(_WORD_START, " ")

    def sentinel_id(self, index: int) -> int:
        """Return the id of ``<extra_id_index>``.

        Raises:
            TokenizerError: The vocabulary has no such sentinel.
        """
        if not 0 <= index < len(self.sentinel_ids):
            raise TokenizerError(
                f"no sentinel <extra_id_{index}>: the vocabulary has {len(self.sentinel_ids)}, counted from 0"
            )
        return self.sentinel_ids[-1 - index]

    def check_model(self, architecture: Architecture) -> None:
        """Check that this vocabulary belongs to a model of this architecture.

        Raises:
            TokenizerError: The sizes do not fit, or pad and eos have other ids.
        """
        self.check_vocab_size(architecture.vocab_size)
        own = (self.pad_id, self.eos_id)
        models = (architecture.pad_token_id, architecture.eos_token_id)
        if own != models:
            raise TokenizerError(
                f"pad and eos are {own[0]} and {own[1]} in the vocabulary, {models[0]} and {models[1]} in the model; "
                "use the vocabulary of the same checkpoint"
            )

    def check_vocab_size(self, model_vocab_size: int) -> None:
        """Check that this vocabulary belongs to an embedding of ``model_vocab_size`` rows.

        Released models round the rows up to a multiple of 128, so fewer than 128 rows may be left over.

        Raises:
            TokenizerError: Ids would fall outside the embedding, or so many rows are left over that this is
                another model's vocabulary or the number of sentinels is wrong.
        """
        spare = model_vocab_size - self.vocab_size
        if 0 <= spare < _ROW_MULTIPLE:
            return
        raise TokenizerError(
            f"the vocabulary has {self.vocab_size} ids, {len(self.sentinel_ids)} of them sentinels, which fits "
            f"{self.vocab_size} to {self.vocab_size + _ROW_MULTIPLE - 1} embedding rows, and the model has "
            f"{model_vocab_size}: use the {SPIECE} and the extra_ids of the same checkpoint"
        )

    def _piece(self, token_id: int) -> str:
        if token_id < 0:
            raise TokenizerError(f"token id {token_id} is negative: ids count from 0")
        return self._pieces[token_id] if token_id < len(self._pieces) else ""


class _CharacterTable(dict[int, str]):
    """Code point to normalised text, for `str.translate`; filled as characters are met."""

    def __init__(self, normalize: Callable[[str], str]) -> None:
        super().__init__()
        self._normalize = normalize

    def __missing__(self, code_point: int) -> str:
        normalized = self[code_point] = self._normalize(chr(code_point))
        return normalized


class _Normalizer:
    """The model's normalisation table, looked up as the reference does (the module's docstring says how)."""

    def __init__(self, model: bytes) -> None:
        table = sentencepiece.SentencePieceNormalizer(
            model_proto=model,
            add_dummy_prefix=False,
            escape_whitespaces=False,
            remove_extra_whitespaces=False,
        )
        self._normalize: Callable[[str], str] = table.normalize
        self._characters = _CharacterTable(self._normalize)

    def __call__(self, text: str) -> str:
        marks = "".join(sorted(c for c in set(text) if c >= _FIRST_MARK and _is_mark(c)))
        if not marks:
            return text.translate(self._characters)
        parts = re.split(f"(.[{marks}]+)", text, flags=re.DOTALL)
        plain, clusters = parts[::2], [*map(self._cluster, parts[1::2]), ""]
        return "".join(
            part.translate(self._characters) + cluster for part, cluster in zip(plain, clusters, strict=True)
        )

    def _cluster(self, cluster: str) -> str:
        """Normalise a character and its marks; if short, the first entry that matches stands for all of it."""
        if len(cluster) > 1 and _is_control(cluster[0]):
            return self._characters[ord(cluster[0])] + self._cluster(cluster[1:])
        if len(cluster.encode()) <= _SHORT_CLUSTER:
            for end in range(1, len(cluster) + 1):
                normalized = self._normalize(cluster[:end])
                if normalized != cluster[0] + self._normalize(cluster[1:end]):
                    return normalized
        return cluster.translate(self._characters)


class _Unigram:
    """The likeliest segmentation of a word (Viterbi search; Kudo 2018, arXiv:1804.10959).

    Equal scores fall as in the reference: the path found first stays, with starts from left to right and,
    from one start, short pieces before long ones.
    """

    def __init__(self, pieces: list[str], scores: list[float], unk_id: int) -> None:
        self._scores = scores
        self._unk_id = unk_id
        self._unk_score = min(scores) - _UNKNOWN_PENALTY
        prefixes = (piece[:end] for piece in pieces for end in range(1, len(piece)))
        self._trie = dict.fromkeys(prefixes, _ONLY_A_PREFIX) | {piece: i for i, piece in enumerate(pieces)}
        self._remembered = functools.lru_cache(_CACHED_WORDS)(self._segment)

    def __call__(self, word: str) -> tuple[int, ...]:
        return self._remembered(word) if len(word) <= _LONGEST_CACHED_WORD else self._segment(word)

    def _segment(self, word: str) -> tuple[int, ...]:
        trie, scores = self._trie, self._scores
        best = [0.0] + [-math.inf] * len(word)  # best[end]: the score of word[:end]
        last = [(0, self._unk_id)] * (len(word) + 1)  # last[end]: start and id of the piece that ends there
        for start in range(len(word)):
            for end in range(start + 1, len(word) + 1):
                piece_id = trie.get(word[start:end])
                if piece_id is None:
                    break
                if piece_id != _ONLY_A_PREFIX and best[start] + scores[piece_id] > best[end]:
                    best[end] = best[start] + scores[piece_id]
                    last[end] = (start, piece_id)
            unknown = trie.get(word[start], _ONLY_A_PREFIX) == _ONLY_A_PREFIX
            if unknown and best[start] + self._unk_score > best[start + 1]:
                best[start + 1] = best[start] + self._unk_score
                last[start + 1] = (start, self._unk_id)
        return self._trace(last)

    def _trace(self, last: list[tuple[int, int]]) -> tuple[int, ...]:
        ids: list[int] = []
        end = len(last) - 1
        while end > 0:
            end, piece_id = last[end]
            if piece_id != self._unk_id or ids[-1:] != [piece_id]:
                ids.append(piece_id)
        return tuple(reversed(ids))


def _parse(model: bytes) -> sentencepiece.SentencePieceProcessor:
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=model) if model else None
    except RuntimeError as error:
        raise TokenizerError(f"not a SentencePiece model ({error}): fetch {SPIECE} again") from error
    if processor is None:
        raise TokenizerError(f"the file is empty: fetch {SPIECE} again")
    if min(processor.pad_id(), processor.eos_id()) < 0:
        raise TokenizerError("the SentencePiece model has no <pad> or no </s>: it is not a T5 or Switch vocabulary")
    return processor


def _refuse_sentinel_pieces(pieces: list[str]) -> None:
    own = next(filter(_SENTINEL.fullmatch, pieces), None)
    if own is not None:
        raise TokenizerError(
            f"the SentencePiece model has a piece {own} of its own: T5 and Switch add sentinels after it"
        )


def _configured_extra_ids(config: Path) -> int:
    """Return ``extra_ids``, else the number of different sentinels that the file names, else 100."""
    try:
        text = config.read_text(encoding="utf-8")
        fields: Any = json.loads(text)
    except FileNotFoundError:
        return DEFAULT_EXTRA_IDS
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(
            f"cannot read {config} ({error}): fetch it again, or remove it for 100 sentinels"
        ) from error
    extra_ids = fields.get("extra_ids") if isinstance(fields, dict) else None
    if extra_ids is None:
        extra_ids = len(set(_SENTINEL.findall(text))) or DEFAULT_EXTRA_IDS
    return _check_extra_ids(extra_ids, f"{config}: ")


def _check_extra_ids(extra_ids: object, where: str = "") -> int:
    if isinstance(extra_ids, int) and not isinstance(extra_ids, bool) and 0 <= extra_ids <= _MOST_EXTRA_IDS:
        return extra_ids
    raise TokenizerError(
        f"{where}extra_ids is {extra_ids!r}: give the number of sentinels, 100 for T5 and Switch, "
        f"{_MOST_EXTRA_IDS} at most"
    )


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextError(
            f"the text is not valid Unicode: character {error.start} is half a surrogate pair "
            f"(U+{ord(text[error.start]):04X}); decode the input as UTF-8"
        ) from error


def _is_mark(character: str) -> bool:
    return unicodedata.category(character) in _MARK_CATEGORIES or character in _ATTACHED


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in _CONTROL_CATEGORIES and character not in _ATTACHED

"""Text to token ids and back, as T5 and Switch Transformers were trained: SentencePiece plus sentinels.

The reference is ``T5Tokenizer`` of transformers 5.23.0, which is what ``AutoTokenizer`` returns for
google/switch-base-8. `pointsman.text.reading` says how its files are read. What it does with a text:

1. added tokens in the text, ``<extra_id_n>``, ``</s>``, ``<pad>`` and ``<unk>`` among them, become their own id and
   cut it into fragments;
2. a fragment is normalised by the model's table (NFKC and a little more: every kind of space becomes " "), and cut
   again at added tokens that are looked for in normalised text;
3. it is split at whitespace, which is lost, and before "▁", and every word is given a leading "▁";
4. the unigram model segments each word, and neighbouring unknown characters become one ``<unk>``.

So whitespace around a sentinel has no meaning: "un<extra_id_0>able" and "un <extra_id_0> able" have the same
ids. Variants differ here: tokenizers with ``legacy=False`` (transformers 4) put no "▁" after a sentinel.

SentencePiece's own ``encode`` differs from the reference:

- it sums scores in float32, so that equally likely segmentations ("oooo" + "o", "o" + "oooo") fall either
  way, in one or two of a thousand web pages; here they are summed in float64, word by word;
- U+0085 (next line) is an unknown character to it, whitespace to the reference;
- it normalises other sequences of a character and marks (`pointsman.text.normalization`);
- special tokens that only appear by normalisation ("＜pad＞" in full-width letters) are pieces to the reference.

In a vocabulary whose sentinels are pieces with a word's start (mT5's), a sentinel that touches the word before it is
plain text to the reference. Here it is a sentinel everywhere.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Final, Self

from pointsman.bundle import Architecture
from pointsman.errors import TextError, TokenizerError
from pointsman.text import tokenizer_json
from pointsman.text.added_tokens import SPACES, Finder, longest_of
from pointsman.text.normalization import Normalizer
from pointsman.text.reading import read_vocabulary
from pointsman.text.vocabulary import UNK_ID, WORD_START, Remembered, Unigram, Vocabulary, sentinels_of

_BYTES: Final = range(0xDC80, 0xDD00)  # what Python makes of bytes that it cannot decode
_WORD: Final = re.compile(f"{WORD_START}[^{WORD_START}{SPACES}]*|[^{WORD_START}{SPACES}]+")


class Tokenizer:
    """T5's tokenizer: a SentencePiece unigram model, sentinels, and added tokens.

    Attributes:
        vocabulary: What it was made of.
        vocab_size: Ids (32,100 for the released models; their embedding has 32,128 rows).
        sentinel_ids: The sentinels' ids, by falling number: the last is ``<extra_id_0>``.
        white_space_ids: Ids whose text is nothing but white space, such as "▁" by itself.
        pad_id: ``<pad>``, 0. Also the decoder's start token.
        eos_id: ``</s>``, 1.
        unk_id: ``<unk>``, 2.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Build a tokenizer.

        Args:
            vocabulary: As `read_vocabulary` gives it; `load` reads it from files.

        Raises:
            TokenizerError: An added token or the table of normalization is damaged.
        """
        ids = vocabulary.ids()
        sentinels = sentinels_of(ids, vocabulary.added)
        self.vocabulary: Final = vocabulary
        self.pad_id: Final = ids[vocabulary.pad]
        self.eos_id: Final = ids[vocabulary.eos]
        self.unk_id: Final = UNK_ID
        self.sentinel_ids: Final = tuple(reversed(sentinels))
        self._sentinel_numbers = {token_id: n for n, token_id in enumerate(sentinels)}
        self._normalize = Normalizer(vocabulary.charsmap)
        self._names = vocabulary.names(self._normalize)
        self.white_space_ids: Final = tuple(
            i for i in range(len(self._names)) if i not in self._sentinel_numbers and not self.decode_span([i]).strip()
        )
        self._segment = segment = Unigram(vocabulary.pieces, vocabulary.scores, UNK_ID)
        self._words = Remembered(lambda word: segment(_begun(word)))
        looked_for = {token_id: token for token_id, token in vocabulary.added.items() if token.normalized}
        self._added = Finder({i: token for i, token in vocabulary.added.items() if i not in looked_for})
        self._added_normalized = Finder(looked_for, self._normalize)
        written = [f"<extra_id_{n}>" for n in range(len(sentinels))]
        self._structure = re.compile(longest_of([vocabulary.pad, vocabulary.eos, vocabulary.unk, *written]))
        self._touching = _before_any([n for n, i in zip(written, sentinels, strict=True) if self._begins_word(i)])

    @classmethod
    def load(cls, folder_or_file: str | Path, *, extra_ids: int | None = None) -> Self:
        """Read a vocabulary and the small files beside it, as ``AutoTokenizer`` does.

        Args:
            folder_or_file: A folder that holds ``tokenizer.json``, which is preferred, or ``spiece.model``; or one
                such file, under any name if it is a SentencePiece model.
            extra_ids: The number of sentinels that are put to the pieces of ``spiece.model``; None takes what
                ``tokenizer_config.json`` says, or 100.

        Raises:
            TokenizerError: A file is missing, unreadable or no T5 vocabulary, or files contradict each other.
        """
        path = Path(folder_or_file)
        vocabulary = read_vocabulary(path, extra_ids)
        try:
            return cls(vocabulary)
        except TokenizerError as error:
            raise TokenizerError(f"{path}: {error}") from error

    def __reduce__(self) -> tuple[type[Self], tuple[Vocabulary]]:
        """Pickle the vocabulary; the rest is built anew."""
        return type(self), (self.vocabulary,)

    def save(self, folder: Path) -> list[Path]:
        """Write the vocabulary, for `load` and for ``AutoTokenizer``.

        Args:
            folder: Is there already.

        Returns:
            The files.

        Raises:
            OSError: A file cannot be written.
        """
        return tokenizer_json.write(self.vocabulary, folder, extra_ids=len(self.sentinel_ids))

    @property
    def vocab_size(self) -> int:
        """Pieces, sentinels and added tokens."""
        return len(self._names)

    def encode(self, text: str, *, add_eos: bool = True) -> list[int]:
        """Return the ids of ``text``; ``<extra_id_n>``, ``</s>``, ``<pad>`` and ``<unk>`` in it are special.

        Raises:
            TextError: ``text`` holds a lone surrogate, so it is not Unicode text.
        """
        _refuse_surrogates(text)
        if self._touching is not None:
            text = self._touching.sub(" ", text)
        ids: list[int] = []
        for token_id, fragment in self._fragments(text):
            ids.extend(self._of_words(fragment) if token_id is None else [token_id])
        return [*ids, self.eos_id] if add_eos else ids

    def encode_span(self, text: str) -> list[int]:
        """Return the ids of ``text`` as part of a longer text: without a leading space it continues a word.

        The inverse of `decode_span`, as far as normalisation lets it be: T5 cuts spans out of encoded text, so a span
        that does not begin a word has no "▁", which `encode` would give it.

        Raises:
            TextError: ``text`` holds ``<extra_id_n>``, ``</s>``, ``<pad>``, ``<unk>`` or a lone surrogate.
        """
        _refuse_surrogates(text)
        special = self._structure.search(text)
        if special is not None:
            raise TextError(f"a span is plain text and cannot hold {special[0]}; leave it out")
        fragments = [*self._fragments(text)]
        ids: list[int] = []
        if fragments and fragments[0][0] is None and (first := _WORD.match(fragments[0][1])):
            ids.extend(self._segment(first[0]))
            fragments[0] = None, fragments[0][1][first.end() :]
        for token_id, fragment in fragments:
            ids.extend(self._of_words(fragment) if token_id is None else [token_id])
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids``, special tokens written out; the first word's space is dropped.

        Ids of the embedding's padding rows have no text. Equal to the reference's ``decode`` where that does not clean
        up spaces (``clean_up_tokenization_spaces``).

        Raises:
            TokenizerError: An id is negative.
        """
        first, *others = [*filter(None, map(self._name, ids)), ""]
        return first.replace(WORD_START, "") + "".join(others).replace(WORD_START, " ")

    def decode_span(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids`` as part of a longer text: "▁" on the first piece gives a leading space.

        Raises:
            TokenizerError: An id is negative.
        """
        return "".join(map(self._name, ids)).replace(WORD_START, " ")

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
        """Check that an embedding of ``model_vocab_size`` rows has one for every id; any number may be left over.

        Raises:
            TokenizerError: Ids would fall outside the embedding.
        """
        if self.vocab_size > model_vocab_size:
            raise TokenizerError(
                f"the vocabulary has {self.vocab_size} ids, {len(self.sentinel_ids)} of them sentinels, and the "
                f"model's embedding {model_vocab_size} rows: use the vocabulary and the extra_ids of the same "
                "checkpoint, or resize the embedding to hold the tokens that were added"
            )

    def _fragments(self, text: str) -> Iterator[tuple[int | None, str]]:
        """Added tokens with their ids, and the normalised text between them with None."""
        for token_id, part in self._added.split(text):
            if token_id is None:
                yield from self._added_normalized.split(self._normalize(part))
            else:
                yield token_id, part

    def _of_words(self, normalized: str) -> Iterator[int]:
        """The ids of a text in which every word begins with "▁"."""
        return chain.from_iterable(map(self._words.__getitem__, _WORD.findall(normalized)))

    def _name(self, token_id: int) -> str:
        if token_id < 0:
            raise TokenizerError(f"token id {token_id} is negative: ids count from 0")
        return self._names[token_id] if token_id < len(self._names) else ""

    def _begins_word(self, token_id: int) -> bool:
        return self._names[token_id].startswith(WORD_START)


def _begun(word: str) -> str:
    return word if word[0] == WORD_START else WORD_START + word


def _before_any(names: Sequence[str]) -> re.Pattern[str] | None:
    """Where one of ``names`` follows anything but white space; None without names."""
    return re.compile(f"(?<=[^{SPACES}])(?={longest_of(names)})") if names else None


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ord(text[error.start])
        advice = "decode the input as UTF-8" if half in _BYTES else "complete or remove it, or the escape that gave it"
        raise TextError(
            f"the text is not valid Unicode: character {error.start} is half a surrogate pair (U+{half:04X}); {advice}"
        ) from error

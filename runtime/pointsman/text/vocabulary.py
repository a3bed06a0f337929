"""A vocabulary: as data, everything that decides which ids a text has; and the search for the pieces of a word.

Of all segmentations of a word the likeliest counts (Viterbi search; Kudo 2018, arXiv:1804.10959).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pointsman.errors import TokenizerError
from pointsman.text.added_tokens import AddedToken

WORD_START: Final = "▁"  # U+2581, what SentencePiece writes for the space before a word
UNK_ID: Final = 2  # of unknown characters: `T5Tokenizer` takes it in every vocabulary

_UNKNOWN_PENALTY: Final = 10.0  # how far below the worst piece an unknown character scores, as in SentencePiece
_ONLY_A_PREFIX: Final = -1
_CACHED_WORDS: Final = 1 << 14  # a few MB; text holds rare words without end
_LONGEST_CACHED_WORD: Final = 64  # characters


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A unigram vocabulary with what was added to it.

    Attributes:
        pieces: In the order of their ids.
        scores: Their log-probabilities.
        charsmap: SentencePiece's table of normalization; empty for none.
        added: Tokens that are found in a text before it is cut into pieces, by id.
        pad: The name of the padding token, which is also the decoder's start.
        eos: The name of the token that ends a text.
        unk: The name of the token for unknown characters, whose id is `UNK_ID`.
    """

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    charsmap: bytes
    added: Mapping[int, AddedToken]
    pad: str
    eos: str
    unk: str

    def __post_init__(self) -> None:
        """Refuse what cannot be searched.

        Raises:
            TokenizerError: There are fewer than three pieces, or a score is not finite.
        """
        if len(self.pieces) <= UNK_ID:
            raise TokenizerError(f"it has {len(self.pieces)} pieces: a T5 or Switch vocabulary has thousands")
        if not all(map(math.isfinite, self.scores)):
            raise TokenizerError("a piece has a score that is not finite: fetch the vocabulary again")

    def names(self, normalize: Callable[[str], str]) -> list[str]:
        """What each id is called; what is looked for in normalized text is called as it looks there."""
        names = [*self.pieces]
        for token_id, token in sorted(self.added.items()):
            names[token_id : token_id + 1] = [normalize(token.content) if token.normalized else token.content]
        return names

    def ids(self) -> dict[str, int]:
        """The id of each piece and added token; an added token's where both have the name."""
        added = {token.content: token_id for token_id, token in self.added.items()}
        return {piece: i for i, piece in enumerate(self.pieces)} | added

    def counts(self) -> "Counts":
        """What its ids are."""
        sentinels = {*sentinels_of(self.ids(), self.added)}
        own = {self.pad, self.eos, self.unk}
        pieces = range(len(self.pieces))
        added = [
            token.content
            for token_id, token in sorted(self.added.items())
            if token_id not in pieces and token_id not in sentinels and token.content not in own
        ]
        return Counts(pieces=len({*pieces} - sentinels), sentinels=len(sentinels), added=tuple(added))


@dataclass(frozen=True, slots=True)
class Counts:
    """What the ids of a vocabulary are.

    Attributes:
        pieces: How many are word pieces, `<pad>`, `</s>` and `<unk>` among them.
        sentinels: How many are sentinels.
        added: Names of the tokens that were added beside them.
    """

    pieces: int
    sentinels: int
    added: tuple[str, ...]


def sentinels_of(ids: Mapping[str, int], added: Mapping[int, AddedToken]) -> list[int]:
    """Find the sentinels of a vocabulary, wherever they are.

    `<extra_id_n>` is an added token as a rule. In some vocabularies it is a piece, with a word's start (mT5's) or
    without.

    Args:
        ids: The id of each piece and added token.
        added: The added tokens.

    Returns:
        The ids of `<extra_id_0>`, `<extra_id_1>` and so on, as far as there are any.
    """
    found: list[int] = []
    while (token_id := _sentinel(ids, added, f"<extra_id_{len(found)}>")) is not None:
        found.append(token_id)
    return found


def _sentinel(ids: Mapping[str, int], added: Mapping[int, AddedToken], name: str) -> int | None:
    token_id = ids.get(name)
    return token_id if token_id in added else ids.get(WORD_START + name, token_id)


class Remembered(dict[str, tuple[int, ...]]):
    """The ids of words, found when they are first asked for; all are forgotten when they become too many."""

    def __init__(self, find: Callable[[str], tuple[int, ...]]) -> None:
        """Begin with no word.

        Args:
            find: Gives the ids of a word.
        """
        super().__init__()
        self._find = find

    def __missing__(self, word: str) -> tuple[int, ...]:
        """Find a word's ids, and remember them unless the word is very long."""
        ids = self._find(word)
        if len(self) >= _CACHED_WORDS:
            self.clear()
        if len(word) <= _LONGEST_CACHED_WORD:
            self[word] = ids
        return ids


class Unigram:
    """Segments words; neighbouring unknown characters become one unknown token.

    Scores are summed in float64. Equal scores fall as in the reference: the path found first stays, with starts from
    left to right and, from one start, short pieces before long ones.
    """

    def __init__(self, pieces: Sequence[str], scores: Sequence[float], unk_id: int) -> None:
        """Prepare the search.

        Args:
            pieces: In the order of their ids; of equal ones the last counts.
            scores: Their log-probabilities.
            unk_id: What stands for unknown characters.
        """
        self._scores = scores
        self._unk_id = unk_id
        self._unk_score = min(scores) - _UNKNOWN_PENALTY
        prefixes = (piece[:end] for piece in pieces for end in range(1, len(piece)))
        self._trie = dict.fromkeys(prefixes, _ONLY_A_PREFIX) | {piece: i for i, piece in enumerate(pieces)}

    def __call__(self, word: str) -> tuple[int, ...]:
        """Return the ids of a word, in which a leading "▁" is a character like others."""
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

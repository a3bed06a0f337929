"""Words to pieces: the likeliest segmentation (Viterbi search; Kudo 2018, arXiv:1804.10959)."""

import math
from collections.abc import Callable, Sequence
from typing import Final

_UNKNOWN_PENALTY: Final = 10.0  # how far below the worst piece an unknown character scores, as in SentencePiece
_ONLY_A_PREFIX: Final = -1
_CACHED_WORDS: Final = 1 << 14  # a few MB; text holds rare words without end
_LONGEST_CACHED_WORD: Final = 64  # characters


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

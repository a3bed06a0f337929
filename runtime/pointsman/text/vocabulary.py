"""A vocabulary as data: everything that decides which ids a text has."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from pointsman.errors import TokenizerError
from pointsman.text.added_tokens import AddedToken

WORD_START: Final = "▁"  # U+2581, what SentencePiece writes for the space before a word
UNK_ID: Final = 2  # of unknown characters: `T5Tokenizer` takes it in every vocabulary
SENTINEL: Final = re.compile(r"<extra_id_(?:0|[1-9][0-9]*)>")


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

"""Documents as a reader sees them: the first blanks in their text, and what each variant put in them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from pointsman.text.tokenizer import Tokenizer
from pointsman_calib.comparison.records import FilledPassage
from pointsman_calib.corpus.batches import Example

Ids = Sequence[int]

PASSAGES: Final = 5
BLANKS: Final = 3


def passages(
    tokenizer: Tokenizer, examples: Sequence[Example], outputs: Mapping[str, Sequence[Ids]]
) -> tuple[FilledPassage, ...]:
    """The beginnings of the first documents.

    Args:
        tokenizer: of the model.
        examples: the documents.
        outputs: what each variant generated from the first of them, by its name.
    """
    filled = min([PASSAGES, len(examples), *map(len, outputs.values())]) if outputs else 0
    return tuple(
        _passage(tokenizer, examples[number], {name: ids[number] for name, ids in outputs.items()})
        for number in range(filled)
    )


def _passage(tokenizer: Tokenizer, example: Example, outputs: Mapping[str, Ids]) -> FilledPassage:
    (_, beginning), *rest = _parts(tokenizer, example.inputs.tolist())
    shown = rest[:BLANKS]
    segments = [beginning.removeprefix(" "), *(text for _, text in shown)]
    blanks = [blank for blank, _ in shown]
    return FilledPassage(
        segments=tuple(segments),
        original=_spans(tokenizer, example.targets.tolist(), blanks),
        fills={name: _spans(tokenizer, ids, blanks) for name, ids in outputs.items()},
    )


def _spans(tokenizer: Tokenizer, ids: Ids, blanks: Sequence[int | None]) -> tuple[str, ...]:
    """What follows the sentinel of each blank, where that comes first; nothing where it never comes."""
    found: dict[int | None, str] = {}
    for blank, text in _parts(tokenizer, ids):
        found.setdefault(blank, text)
    return tuple(found.get(blank, "") for blank in blanks)


def _parts(tokenizer: Tokenizer, ids: Ids) -> Iterator[tuple[int | None, str]]:
    """Each sentinel with the text behind it; what comes before the first has None."""
    sentinels, ends = frozenset(tokenizer.sentinel_ids), (tokenizer.eos_id, tokenizer.pad_id)
    sentinel: int | None = None
    piece: list[int] = []
    for token in ids:
        if token in sentinels:
            yield sentinel, tokenizer.decode_span(piece)
            sentinel, piece = token, []
        elif token not in ends:
            piece.append(token)
    yield sentinel, tokenizer.decode_span(piece)

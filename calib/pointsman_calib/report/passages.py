"""Fills of each variant side by side."""

from collections.abc import Iterator, Sequence

from pointsman_calib.comparison.measuring.generation import MAX_NEW_TOKENS
from pointsman_calib.comparison.records import Comparison, FilledPassage
from pointsman_calib.report.markup import Markup, element
from pointsman_calib.report.tables import table

_MOST_BEFORE, _MOST_BETWEEN = 160, 240  # characters of the text that are shown


def passages(comparison: Comparison) -> Iterator[Markup]:
    """A section, where anything was generated."""
    if not comparison.passages:
        return
    yield element("h2", "What they write")
    yield element(
        "p",
        "The first blanks of some documents, filled by each variant with 4 beams; the model read the whole document. "
        f"Fills that are not {comparison.baseline.name}'s are marked; they need not be worse. Blanks may begin and "
        "end within a word: … stands for the rest of the word, which is in the text beside the blank. A dash: the "
        f"blank was not reached within {MAX_NEW_TOKENS} tokens, or left empty.",
    )
    yield from (_passage(passage, comparison.baseline.name) for passage in comparison.passages)


def _passage(passage: FilledPassage, baseline: str) -> Markup:
    blanks = [f"blank {number}" for number in range(1, 1 + len(passage.original))]
    rows = [
        ("the text itself", *map(_shown, passage.original, passage.segments[1:])),
        *((name, *_fills(passage, name, baseline)) for name in passage.fills),
    ]
    text = element("p", *_text(passage, blanks), class_="passage")
    return element("div", text, table(("filled by", *blanks), rows), class_="filled")


def _text(passage: FilledPassage, blanks: Sequence[str]) -> Iterator[str]:
    beginning, *others = passage.segments
    yield f"…{beginning[-_MOST_BEFORE:]}" if len(beginning) > _MOST_BEFORE else beginning
    for blank, original, segment in zip(blanks, passage.original, others, strict=True):
        yield " " if original.startswith(" ") else ""
        yield element("span", blank, class_="blank")
        yield f"{segment[:_MOST_BETWEEN]} …" if len(segment) > _MOST_BETWEEN else segment
    yield " …"


def _fills(passage: FilledPassage, name: str, baseline: str) -> Iterator[str]:
    for fill, other, after in zip(passage.fills[name], passage.fills[baseline], passage.segments[1:], strict=True):
        shown = _shown(fill, after)
        yield shown if fill == other else element("mark", shown)


def _shown(fill: str, after: str) -> str:
    """A fill with … where it goes on in the midst of a word, or the text after it does."""
    if not fill.strip():
        return "-"
    return f"{'' if fill.startswith(' ') else '…'}{fill.strip()}{'…' if after[:1].isalnum() else ''}"

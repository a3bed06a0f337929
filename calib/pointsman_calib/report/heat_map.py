"""Which experts a layer's tokens go to."""

from collections.abc import Iterator, Sequence
from typing import Final

from pointsman_calib.comparison.records import LayerCoverage
from pointsman_calib.report.drawing import drawing, text
from pointsman_calib.report.markup import Markup, element

_WIDTH, _LEFT, _TOP, _ROW = 960.0, 190.0, 26.0, 26.0
_MOST_COLUMNS: Final = 128
_MOST_WRITTEN: Final = 16  # columns wide enough for a number
_STRONGEST: Final = 0.55  # opacity over which the page's text is still read easily


def heat_map(coverage: Sequence[LayerCoverage]) -> Markup:
    """A row for each sparse layer, a column for each expert, or for neighbours where experts are many.

    Stronger is a larger share of the layer's tokens; a dashed cell has none.
    """
    shares = [_shares(layer.tokens) for layer in coverage]
    strongest = max(max(row) for row in shares)
    return drawing(
        _WIDTH,
        _TOP + _ROW * len(coverage) + 4,
        "Share of each sparse layer's tokens that each expert is given",
        *_numbers(len(shares[0]), per_column(len(coverage[0].tokens))),
        *(text(0, _TOP + _ROW * row + 17, layer.layer, class_="name") for row, layer in enumerate(coverage)),
        *(cell for row, shown in enumerate(shares) for cell in _cells(row, shown, strongest)),
    )


def per_column(experts: int) -> int:
    """Experts that share a column."""
    return -(-experts // _MOST_COLUMNS)


def _shares(tokens: Sequence[int]) -> list[float]:
    """Of each column; a layer without tokens has none."""
    width, total = per_column(len(tokens)), max(1, sum(tokens))
    return [sum(tokens[start : start + width]) / total for start in range(0, len(tokens), width)]


def _numbers(columns: int, width: int) -> Iterator[Markup]:
    """What columns are, and numbers of experts above them, no closer than they can be read."""
    each = (_WIDTH - _LEFT) / columns
    yield text(_LEFT - 8, _TOP - 8, "expert", anchor="end")
    every = max(1, round(32 / each))
    for column in range(0, columns, every):
        yield text(_LEFT + each * (column + 0.5), _TOP - 8, str(column * width), anchor="middle")


def _cells(row: int, shares: Sequence[float], strongest: float) -> Iterator[Markup]:
    each = (_WIDTH - _LEFT) / len(shares)
    for column, share in enumerate(shares):
        x, y = _LEFT + each * column, _TOP + _ROW * row
        title = element("title", f"{share:.2%}")
        opacity = _STRONGEST * share / strongest if strongest else 0.0
        yield element(
            "rect",
            title,
            x=x + 0.5,
            y=y + 0.5,
            width=max(0.5, each - 1),
            height=_ROW - 1,
            fill_opacity=opacity,
            class_="cell" if share else "empty cell",
        )
        if len(shares) <= _MOST_WRITTEN:
            yield text(x + each / 2, y + 17, f"{share:.1%}", anchor="middle", class_="name")

"""Tables of text."""

from collections.abc import Iterable, Sequence

from pointsman_calib.report.markup import Markup, element

_LONGEST = 40  # characters of a cell that stays on one line


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """A table; the first cell of each row is its heading."""
    head = element("tr", *(element("th", cell, scope="col") for cell in heading))
    body = (element("tr", element("th", row[0], scope="row"), *map(_cell, row[1:])) for row in rows)
    return element("div", element("table", element("thead", head), element("tbody", *body)), class_="wide")


def _cell(words: str) -> Markup:
    return element("td", words, class_="hash") if len(words) > _LONGEST else element("td", words)

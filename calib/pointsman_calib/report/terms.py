"""Terms explained where they stand."""

from collections.abc import Mapping

from pointsman_calib.report.markup import Markup, element


def terms(meanings: Mapping[str, str]) -> Markup:
    """A list of terms, each with what it means."""
    entries = (element("div", element("dt", term), element("dd", meaning)) for term, meaning in meanings.items())
    return element("dl", *entries)

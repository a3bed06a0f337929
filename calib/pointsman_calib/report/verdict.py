"""What the page opens with: a line a variant, whether limits hold, and what to doubt."""

from collections.abc import Iterator

from pointsman_calib.comparison.records import CandidateResult, Comparison
from pointsman_calib.comparison.summary import doubts, headline, limits_asked
from pointsman_calib.report.markup import Markup, element


def verdict(comparison: Comparison) -> Markup:
    """A box: neutral where no limits are set and all values are finite."""
    asked = list(limits_asked(comparison.limits))
    kind = "failed" if not comparison.passed else "held" if asked else "neutral"
    lines = (_line(candidate, comparison) for candidate in comparison.candidates)
    return element(
        "div",
        element("p", f"Beside {comparison.baseline.name}:"),
        element("ul", *lines, class_="lines"),
        *_judgement(comparison, asked),
        *(element("p", sentence, class_="doubt") for sentence in doubts(comparison)),
        class_=f"verdict {kind}",
    )


def _line(candidate: CandidateResult, comparison: Comparison) -> Markup:
    said = headline(candidate, comparison.baseline)
    return element("li", element("strong", candidate.variant.name), f": {said}")


def _judgement(comparison: Comparison, asked: list[str]) -> Iterator[Markup]:
    failures = [
        element("li", f"{candidate.variant.name}: {sentence}")
        for candidate in comparison.candidates
        for sentence in candidate.failures
    ]
    if failures:
        yield element("p", element("strong", "Not held"))
        yield element("ul", *failures)
    elif asked:
        yield element("p", f"All limits hold: {'; '.join(asked)}.")
    else:
        yield element("p", "No limits were set, so nothing is judged here.", class_="faint")

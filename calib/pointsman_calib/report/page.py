"""The page: what was compared, on what, and what came of it."""

from collections.abc import Iterator, Sequence
from importlib.resources import files

from pointsman_calib.comparison.measuring.intervals import FEWEST_DOCUMENTS
from pointsman_calib.comparison.records import CandidateResult, Comparison
from pointsman_calib.comparison.table import AGREEMENT, COST, agreement_rows, cost_rows
from pointsman_calib.report.figures import figures
from pointsman_calib.report.markup import Markup, element
from pointsman_calib.report.quantization import quantization
from pointsman_calib.report.tables import table

# Whatever comes to be written into the page, nothing in it can load or run anything.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render(comparison: Comparison) -> str:
    """A comparison as an HTML document."""
    title = f"{comparison.source}: variants compared on C4"
    head = element(
        "head",
        Markup('<meta charset="utf-8">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        element("title", title),
        element("style", Markup(files(__package__).joinpath("style.css").read_text(encoding="utf-8"))),
    )
    body = element("body", element("main", element("h1", title), *_sections(comparison)))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _sections(comparison: Comparison) -> Iterator[Markup]:
    yield element(
        "p", f"Bundle {comparison.bundle}; baseline {comparison.baseline.name}; {comparison.date}.", class_="faint"
    )
    yield _verdict(comparison)
    yield element("h2", "Variants")
    yield table(COST, cost_rows(comparison))
    yield element("h2", "Beside the baseline")
    yield element(
        "p",
        "Tokens: share of positions at which the baseline's token is the likeliest, under teacher forcing. "
        "Experts: share of tokens that go to the baseline's expert. Greedy and 4 beams: share of generated tokens "
        "before the first that differs. Logits and worst of encoder: signal to quantization noise.",
    )
    yield table(AGREEMENT, agreement_rows(comparison))
    yield from quantization(comparison)
    yield from figures(comparison)
    yield element("h2", "Errors of what the graphs give")
    yield from map(_errors, comparison.candidates)
    yield element("h2", "Documents")
    yield from _documents(comparison)
    yield element("h2", "Conditions")
    yield from _conditions(comparison)


def _verdict(comparison: Comparison) -> Markup:
    failures = [
        element("li", f"{candidate.variant.name}: {sentence}")
        for candidate in comparison.candidates
        for sentence in candidate.failures
    ]
    if failures:
        return element("div", element("strong", "Not held"), element("ul", *failures), class_="verdict failed")
    asked = list(_limits(comparison))
    words = f"All limits hold: {'; '.join(asked)}." if asked else "No limit was set, and all values are finite."
    return element("div", words, class_="verdict")


def _limits(comparison: Comparison) -> Iterator[str]:
    limits = comparison.limits
    for words, limit in (
        ("the loss at most {:g} % above the baseline's", limits.max_loss_increase),
        ("at least {:g} % of tokens the baseline's", limits.min_agreement),
        ("at least {:g} % of tokens at the baseline's expert", limits.min_expert_agreement),
        ("logits at least {:g} dB above their error", limits.min_sqnr),
    ):
        if limit is not None:
            yield words.format(limit)


def _errors(candidate: CandidateResult) -> Markup:
    heading = ("tensor", "values", "SQNR, dB", "cosine", "largest", "mean", "largest, relative", "mean, relative")
    rows = (
        (
            errors.name,
            f"{errors.values:,}",
            "equal" if errors.sqnr_db is None else f"{errors.sqnr_db:.2f}",
            f"{errors.cosine:.7f}",
            *(
                f"{e:.3g}"
                for e in (errors.max_absolute, errors.mean_absolute, errors.max_relative, errors.mean_relative)
            ),
        )
        for errors in (*candidate.outputs, *candidate.layers)
    )
    return element("details", element("summary", candidate.variant.name), table(heading, rows))


def _documents(comparison: Comparison) -> Iterator[Markup]:
    evaluation = comparison.evaluation
    yield element(
        "p",
        f"Spans are cut out as in T5's pretraining (seed {evaluation.seed}, at most {evaluation.window} encoder "
        f"inputs). The loss is in nats, over the {evaluation.span_tokens:,} tokens of the spans; its intervals are "
        f"bootstrapped over documents, at 95 %, where there are {FEWEST_DOCUMENTS} of them. Increases are paired by "
        "document. No document is in both sets.",
    )
    rows = [("evaluation", ", ".join(evaluation.sources), str(evaluation.documents), evaluation.sha256)]
    for candidate in (comparison.baseline, *(candidate.variant for candidate in comparison.candidates)):
        if candidate.calibration is not None:
            used = candidate.calibration
            rows.append(("calibration", candidate.name, str(used.documents), used.sha256))
    yield table(("used for", "files or variant", "documents", "sha256 of their digests"), rows)


def _conditions(comparison: Comparison) -> Iterator[Markup]:
    versions = ", ".join(f"{package} {version}" for package, version in comparison.versions.items())
    yield element("p", f"Measured on {comparison.date} with {comparison.engine}: {comparison.machine}. {versions}.")
    yield element("p", f"Checkpoint {comparison.source}, sha256 of its weights {comparison.source_sha256}.")
    rows: list[Sequence[str]] = [
        (variant.name, variant.form, variant.precision, str(variant.capacity or "no limit"), variant.rounding or "-")
        for variant in (comparison.baseline, *(candidate.variant for candidate in comparison.candidates))
    ]
    yield table(("variant", "form", "precision", "expert capacity", "rounding"), rows)

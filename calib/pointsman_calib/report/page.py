"""The page: what was compared, on what, and what came of it."""

from collections.abc import Iterator, Sequence
from importlib.resources import files

from pointsman_calib.comparison.measuring.intervals import FEWEST_DOCUMENTS
from pointsman_calib.comparison.records import CandidateResult, Comparison
from pointsman_calib.report.agreement import agreement
from pointsman_calib.report.costs import costs
from pointsman_calib.report.figures import figures
from pointsman_calib.report.markup import Markup, element
from pointsman_calib.report.passages import passages
from pointsman_calib.report.quantization import quantization
from pointsman_calib.report.tables import table
from pointsman_calib.report.terms import terms
from pointsman_calib.report.verdict import verdict

# Whatever comes to be written into the page, nothing in it can load or run anything.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render(comparison: Comparison) -> str:
    """A comparison as an HTML document."""
    title = f"{comparison.source}: its variants compared"
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
    yield verdict(comparison)
    yield from costs(comparison)
    yield from agreement(comparison)
    yield from passages(comparison)
    yield from quantization(comparison)
    yield from figures(comparison)
    yield from _errors(comparison)
    yield element("h2", "Documents")
    yield from _documents(comparison)
    yield element("h2", "Conditions")
    yield from _conditions(comparison)


def _errors(comparison: Comparison) -> Iterator[Markup]:
    yield element("h2", "Errors of what the graphs give")
    yield from map(_errors_of, comparison.candidates)
    yield terms(
        {
            "SQNR": "signal to quantization noise ratio: how far the values stand above their errors, in dB.",
            "Cosine": "likeness of the two tensors as vectors; 1 where nothing differs.",
            "Largest, mean": "of the differences; relative: over the largest, or the mean, of the baseline's values.",
        }
    )


def _errors_of(candidate: CandidateResult) -> Markup:
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
        f"inputs). The loss is in nats, over the {evaluation.span_tokens:,} tokens of the spans, of "
        f"{evaluation.label_tokens:,} labels; its intervals are bootstrapped over documents, at 95 %, where there are "
        f"{FEWEST_DOCUMENTS} of them. Increases are paired by document. No document is in both sets.",
    )
    rows = [("evaluation", ", ".join(evaluation.sources), str(evaluation.documents), evaluation.sha256)]
    rows += [
        ("calibration", variant.name, str(used.documents), used.sha256)
        for variant in comparison.variants
        if (used := variant.calibration) is not None
    ]
    yield table(("used for", "files or variant", "documents", "sha256 of their digests"), rows)


def _conditions(comparison: Comparison) -> Iterator[Markup]:
    versions = ", ".join(f"{package} {version}" for package, version in comparison.versions.items())
    yield element("p", f"Measured on {comparison.date} with {comparison.engine}: {comparison.machine}. {versions}.")
    yield element("p", f"Checkpoint {comparison.source}, sha256 of its weights {comparison.source_sha256}.")
    rows: list[Sequence[str]] = [
        (variant.name, variant.form, variant.precision, str(variant.capacity or "no limit"), variant.rounding or "-")
        for variant in comparison.variants
    ]
    yield table(("variant", "form", "precision", "expert capacity", "rounding"), rows)
    yield terms(
        {
            "Form": "fused: for CPUs. Portable: standard ONNX, for GPUs and TensorRT.",
            "Expert capacity": "how many tokens of a text an expert takes; those beyond pass it by.",
        }
    )

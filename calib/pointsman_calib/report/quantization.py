"""How quantized variants came to be: what was kept more precise, and by which ranking."""

from collections.abc import Iterator, Sequence

from pointsman.bundle import Sensitivity
from pointsman_calib.comparison.records import Comparison, VariantResult
from pointsman_calib.comparison.table import QUANTIZATION, quantization_rows, quantized_variants
from pointsman_calib.report.markup import Markup, element
from pointsman_calib.report.tables import table


def quantization(comparison: Comparison) -> Iterator[Markup]:
    """A section, where any variant is quantized."""
    if not (rows := list(quantization_rows(comparison))):
        return
    yield element("h2", "Quantization")
    yield element(
        "p",
        "Weights are those that are quantized. What cost most on the calibration text was kept more precise: first "
        "inputs, which then come in two 8-bit parts, then weights, which stay in float. Experts that few tokens "
        "reached are thin. Loss, tokens and experts: increase of the span loss, share of the float variant's tokens, "
        "share of tokens at its expert, on the calibration text; beside it, what the variant would reach with every "
        "weight rounded to nearest.",
    )
    yield table(QUANTIZATION, rows)
    for variant in quantized_variants(comparison):
        yield from _kept(variant)
        if variant.sensitivity is not None and variant.sensitivity.costs:
            yield _ranking(variant.name, variant.sensitivity)


def _kept(variant: VariantResult) -> Iterator[Markup]:
    inputs = variant.sensitivity.fine_inputs if variant.sensitivity else ()
    rows = [
        *((name, "its inputs come in two parts") for name in inputs),
        *((name, "in float") for name in variant.kept),
    ]
    if rows:
        yield _details(f"What {variant.name} keeps more precise", ("weight", "how"), rows)


def _ranking(name: str, sensitivity: Sensitivity) -> Markup:
    rows = [
        (layer, f"{cost:.5f}", f"{sensitivity.rerouted[layer]:.3%}" if layer in sensitivity.rerouted else "-")
        for layer, cost in sensitivity.costs.items()
    ]
    return _details(
        f"Layers of {name}, the costliest first: what keeping the inputs of each alone more precise gains",
        ("layer", "off the mean change of a label's loss, nats", "off the tokens that go to another expert"),
        rows,
    )


def _details(summary: str, heading: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    return element("details", element("summary", summary), table(heading, rows))

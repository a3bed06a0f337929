"""How quantized variants came to be: what was kept more precise, and by which ranking."""

from collections.abc import Iterator, Sequence

from pointsman.bundle import Fidelity, Sensitivity
from pointsman_calib.comparison.records import Comparison, VariantResult
from pointsman_calib.comparison.table import experts_seen, quantized_variants
from pointsman_calib.report.markup import Markup, element
from pointsman_calib.report.tables import table
from pointsman_calib.report.terms import terms

_MADE = ("variant", "rounding", "weights", "inputs in two parts", "in float", "thin experts")
_WHY_GPTQ = (
    "Rounding to nearest happens to lose less here, and GPTQ is preferred all the same. Errors push the loss of some "
    "tokens up and of others down; on little text the sum falls either way, below the float variant's too, and that is "
    "chance and no better model. GPTQ makes the errors themselves small. Agreement does not cancel out, and tells "
    "which is nearer to the float variant:"
)
_REACHED = ("on the calibration text", "as it is made", "loss", "tokens", "experts")


def quantization(comparison: Comparison) -> Iterator[Markup]:
    """A section, where any variant is quantized."""
    if not (variants := list(quantized_variants(comparison))):
        return
    yield element("h2", "Quantization")
    yield table(_MADE, map(_made, variants))
    yield terms(
        {
            "Weights": "how many of the model's weight matrices are quantized: stored as small integers.",
            "Rounding": "to nearest: each number by itself. GPTQ: number after number of a matrix, the later ones "
            "making up for the errors of the earlier ones, on what the calibration text sends through it.",
            "Inputs in two parts": "what is multiplied with a weight is rounded to 8 bits too. In these weights' "
            "products it is the sum of two 8-bit numbers, a coarse and a fine one: more precise, and slower.",
            "In float": "weights that were left as they were, since rounding them cost too much.",
            "Thin experts": "those that the calibration text sent too few tokens to, of all sparse layers together, "
            "and what was done instead.",
        }
    )
    yield from _beside_nearest(variants)
    for variant in variants:
        yield from _kept(variant)
        if variant.sensitivity is not None and variant.sensitivity.costs:
            yield _ranking(variant.name, variant.sensitivity)


def _made(variant: VariantResult) -> Sequence[str]:
    found = variant.sensitivity
    fine = "-" if found is None else str(len(found.fine_inputs))
    return (
        variant.name, variant.rounding or "-", str(variant.quantized), fine, str(len(variant.kept)),
        experts_seen(variant) or "-",
    )  # fmt: skip


def _beside_nearest(variants: Sequence[VariantResult]) -> Iterator[Markup]:
    """What was measured on the calibration text, and why GPTQ is preferred."""
    rows = []
    for variant in variants:
        if (found := variant.sensitivity) is not None:
            rows.append((variant.name, f"{variant.rounding}, some kept more precise", *_shares(found.reached)))
            rows.append(("", "all rounded to nearest, nothing kept", *_shares(found.nearest)))
    if not rows:
        return
    yield table(_REACHED, rows)
    yield terms(
        {
            "Loss": "how much the float variant's loss went up on the calibration text.",
            "Tokens": "share of span tokens, those of the hidden words alone, at which the float variant's token is "
            "the likeliest.",
            "Experts": "share of tokens that go to the float variant's expert.",
        }
    )
    if worse := [variant for variant in variants if _seems_worse(variant)]:
        yield element("p", _WHY_GPTQ)
        yield element("ul", *(element("li", _nearer(variant)) for variant in worse))


def _shares(fidelity: Fidelity) -> tuple[str, str, str]:
    return f"{fidelity.loss_increase:+z.2%}", f"{fidelity.agreement:.2%}", f"{fidelity.expert_agreement:.2%}"


def _seems_worse(variant: VariantResult) -> bool:
    """Whether rounding to nearest has the lesser loss, as shown."""
    found = variant.sensitivity
    if found is None or variant.rounding != "GPTQ":
        return False
    return round(found.nearest.loss_increase, 4) < round(found.reached.loss_increase, 4)


def _nearer(variant: VariantResult) -> str:
    """Which way of rounding is nearer to the float variant."""
    if (found := variant.sensitivity) is None:
        return variant.name
    ours, nearest = found.reached, found.nearest
    sentence = (
        f"{variant.name}: loss {ours.loss_increase:+z.2%}, to nearest {nearest.loss_increase:+z.2%}; the float "
        f"variant's token at {ours.agreement:.2%} of places, to nearest at {nearest.agreement:.2%}."
    )
    if ours.agreement >= nearest.agreement:
        return sentence
    return f"{sentence} So here both speak for rounding to nearest: quantize without text too, and compare the two."


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

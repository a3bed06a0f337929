"""What `pointsman-calib quantize` says at its end: what the variant is, in plain words, and what to do next."""

import shlex
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Final

from pointsman.bundle import ExpertCoverage, Quantization
from pointsman_calib.corpus import few
from pointsman_calib.corpus.chance import no_better_than_chance
from pointsman_calib.settle.calibration_text import JUDGED_DOCUMENTS

_SENTENCE: Final = "The <extra_id_0> walks in <extra_id_1> park."
_MOST: Final = 0.5  # share of the weights from which on it is a warning that they stay in float


def weights(quantization: Quantization) -> str:
    """How many weights are in which type, and how many of them take finer inputs."""
    types = Counter(how.split()[0] for how in quantization.formats.values())
    total = len(quantization.formats) + len(quantization.kept)
    first, *others = [f"{count} in {name}" for name, count in types.most_common()] or ["0 quantized"]
    count, _, where = first.partition(" ")
    said = [f"{count} of {total} weights {where}", *others]
    if quantization.kept:
        said.append(f"{len(quantization.kept)} in float")
    return f"{', '.join(said)}{_finer(quantization)}"


def _finer(quantization: Quantization) -> str:
    count = 0 if quantization.sensitivity is None else len(quantization.sensitivity.fine_inputs)
    if not count:
        return ""
    return f"; {count} take {_inputs(quantization)}: slower, more precise"


def _inputs(quantization: Quantization) -> str:
    return "two-part inputs" if quantization.activations is None else "inputs in float"


def mostly_float(quantization: Quantization) -> str | None:
    """What to do where most weights stayed in float, since limits would not hold otherwise; None where few did."""
    kept, total = len(quantization.kept), len(quantization.formats) + len(quantization.kept)
    if quantization.sensitivity is None or kept <= _MOST * total:
        return None
    return (
        f"most weights stay in float ({kept} of {total}), so little is saved; calibrate on more text "
        "(--corpus, --documents), or loosen --max-loss-increase, --min-agreement or --min-expert-agreement"
    )


def few_labels(quantization: Quantization) -> str | None:
    """That what was measured on the corpus says little, as comparisons have it; None where it was enough."""
    if quantization.sensitivity is None or quantization.calibration is None:
        return None
    documents = min(len(quantization.calibration.documents), JUDGED_DOCUMENTS)
    return few.few_labels(documents, quantization.sensitivity.labels, "span token")


def guessing(quantization: Quantization, ids: int) -> str | None:
    """That the float variant is no better than chance, where it is not."""
    if quantization.sensitivity is None:
        return None
    return no_better_than_chance(quantization.source, quantization.sensitivity.loss, ids)


def thin(coverage: ExpertCoverage) -> str:
    """How many experts few tokens reached, of all sparse layers: `4 of 8 (4 in each of 2 sparse layers)`."""
    few, given = (sum(map(len, layers.values())) for layers in (coverage.thin, coverage.tokens))
    each = {len(tokens) for tokens in coverage.tokens.values()}
    layers = len(coverage.tokens)
    if layers < 2 or len(each) > 1:
        return f"{few} of {given}"
    return f"{few} of {given} ({each.pop()} in each of {layers} sparse layers)"


def nearest_loses_less(quantization: Quantization) -> str | None:
    """That rounding for the text was not worth it here, by the figures as they are shown; None where it was."""
    found = quantization.sensitivity
    if found is None or quantization.rounding != "GPTQ":
        return None
    ours, nearest = (round(one.loss_increase, 5) for one in (found.reached, found.nearest))
    if nearest >= ours:
        return None
    sentence = f"rounded to nearest it would have lost less here: {nearest:+z.3%} in place of {ours:+z.3%}"
    if found.nearest.agreement > found.reached.agreement:
        return f"{sentence}, with more tokens that agree; compare with a variant that is made without --corpus"
    return f"{sentence}, with no more tokens that agree, so that may be chance; calibrate on more text to be sure"


def next_commands(bundle: Path, variant: str, others: Collection[str]) -> list[str]:
    """How to use the variant, and how to see what it loses beside others of the bundle."""
    folder = shlex.quote(str(bundle))
    filling = f"fill with it: pointsman infill {folder} {shlex.quote(_SENTENCE)} --variant {variant}"
    if not {"fused-float32", "portable-float32"}.intersection(others):
        return [filling, "what it loses is measured beside a float32 variant, which this bundle does not have"]
    return [
        filling,
        f"measure it on other text: pointsman-calib compare {folder} --candidate {variant} --corpus FILES",
    ]

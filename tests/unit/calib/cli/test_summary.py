"""What `pointsman-calib quantize` says at its end."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pointsman.bundle import ActivationRanges, ExpertCoverage, Fidelity, Quantization, Sensitivity
from pointsman_calib.cli import summary

AS_FLOAT = Fidelity(loss_increase=0.0, agreement=1.0, expert_agreement=1.0)
RANGES = ActivationRanges.__new__(ActivationRanges)


def quantization(formats: dict[str, int], kept: int = 0, fine: int = 0, **changes: Any) -> Quantization:
    names = [f"{kind} in blocks of 128 {number}" for kind, count in formats.items() for number in range(count)]
    measured = Sensitivity(
        labels=9,
        loss=3.0,
        reached=AS_FLOAT,
        nearest=AS_FLOAT,
        costs={},
        rerouted={},
        fine_inputs=tuple(names[:fine]),
        float_weights=tuple(f"kept {number}" for number in range(kept)),
    )
    return Quantization(
        **{
            "scheme": "int8",
            "source": "fused-float32",
            "formats": {name: name for name in names},
            "kept": measured.float_weights,
            "rounding": "gptq",
            "calibration": None,
            "sensitivity": measured,
            "producer": {},
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (quantization({"int8": 121}), "121 of 121 weights in int8"),
        (
            quantization({"int8": 121}, fine=43),
            "121 of 121 weights in int8; 43 take two-part inputs: slower, more precise",
        ),
        (quantization({"int8": 50}, kept=71), "50 of 121 weights in int8, 71 in float"),
        (quantization({"int8": 1, "int4": 120}), "120 of 121 weights in int4, 1 in int8"),
        (
            quantization({"int8": 120}, kept=1, fine=2, activations=RANGES),
            "120 of 121 weights in int8, 1 in float; 2 take inputs in float: slower, more precise",
        ),
        (quantization({"int8": 5}, sensitivity=None), "5 of 5 weights in int8"),
        (quantization({}, kept=2), "0 of 2 weights quantized, 2 in float"),
    ],
)
def test_weights(made, sentence):
    assert summary.weights(made) == sentence


@pytest.mark.parametrize(
    ("made", "warned"),
    [
        (quantization({"int8": 50}, kept=71), True),
        (quantization({"int8": 60}, kept=61), True),
        (quantization({"int8": 60}, kept=60), False),
        (quantization({"int8": 121}), False),
        (quantization({"int8": 50}, kept=71, sensitivity=None), False),  # it is the scheme that takes no more
    ],
)
def test_what_stays_in_float(made, warned):
    sentence = summary.mostly_float(made)
    assert (sentence is not None) == warned
    if sentence is not None:
        total = len(made.formats) + len(made.kept)
        assert sentence.startswith(f"most weights stay in float ({len(made.kept)} of {total}), so little is saved; ")


def fidelity(loss: float, agreement: float = 0.99) -> Fidelity:
    return Fidelity(loss_increase=loss, agreement=agreement, expert_agreement=1.0)


@pytest.mark.parametrize(
    ("reached", "nearest", "rounding", "sentence"),
    [
        (fidelity(0.00117), fidelity(0.00015), "GPTQ", "here: +0.015% in place of +0.117%, with no more tokens that"),
        (fidelity(0.00117), fidelity(0.00015, 0.995), "GPTQ", "agree; compare with a variant that is made without --"),
        (fidelity(0.00015), fidelity(0.00117), "GPTQ", None),
        (fidelity(0.000151), fidelity(0.000149), "GPTQ", None),  # the same, as they are shown
        (fidelity(0.00117), fidelity(0.00015), "nearest", None),
    ],
)
def test_rounding_to_nearest_that_loses_less(reached, nearest, rounding, sentence):
    made = quantization({"int4": 3}, rounding=rounding)
    assert made.sensitivity is not None
    said = summary.nearest_loses_less(
        replace(made, sensitivity=replace(made.sensitivity, reached=reached, nearest=nearest))
    )
    assert sentence is None if said is None else sentence is not None and sentence in said


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ({"a": (90, 1), "b": (2, 3)}, "3 of 4 (2 in each of 2 sparse layers)"),
        ({"a": (90, 1)}, "1 of 2"),
        ({"a": (90, 1), "b": (2,)}, "2 of 3"),
    ],
)
def test_experts_of_all_layers(tokens, said):
    few = {layer: tuple(n for n, count in enumerate(given) if count < 64) for layer, given in tokens.items()}
    assert summary.thin(ExpertCoverage(fewest_tokens=64, tokens=tokens, thin=few)) == said


@pytest.mark.parametrize(("ids", "warned"), [(4096, False), (24, False), (23, True), (20, True), (8, True)])
def test_a_model_that_guesses(ids, warned):
    """Its loss of 3.0 nats is that of a guess among 20 ids; the text, or the vocabulary, is not its own."""
    sentence = summary.guessing(quantization({"int8": 3}), ids)
    assert (sentence is not None) == warned
    if sentence is not None:
        assert sentence.startswith(
            "fused-float32 itself finds the right tokens no better than chance: its loss is 3.00 nats, and a guess "
            f"among its {ids} ids has "
        )
    assert summary.guessing(quantization({"int8": 3}, sensitivity=None), 20) is None


def test_commands_can_be_pasted():
    fill, measure = summary.next_commands(Path("my bundles/demo"), "fused-int8", ["portable-float32"])
    assert fill.startswith("fill with it: pointsman infill 'my bundles/demo' 'The <extra_id_0> walks")
    assert measure.startswith(
        "measure it on other text: pointsman-calib compare 'my bundles/demo' --candidate fused-int8 "
    )
    _, measure = summary.next_commands(Path("my bundles/demo"), "fused-int8", ["fused-bfloat16"])
    assert "pointsman-calib" not in measure

"""What `pointsman-calib quantize` says at its end."""

from pathlib import Path
from typing import Any

import pytest

from pointsman.bundle import ActivationRanges, Fidelity, Quantization, Sensitivity
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


def test_commands_can_be_pasted():
    fill, measure = summary.next_commands(Path("my bundles/demo"), "fused-int8")
    assert fill.startswith("fill with it: pointsman infill 'my bundles/demo' 'The <extra_id_0> walks")
    assert measure.startswith(
        "measure it on other text: pointsman-calib compare 'my bundles/demo' --candidate fused-int8 "
    )

"""From a range table to scales: whose range an expert has, and when a corpus is refused."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from checkpoints import CHECKPOINTS
from pointsman.bundle import Activation, Calibration
from pointsman.errors import BundleError
from pointsman_calib.corpus.coverage import CoverageRule
from pointsman_calib.graphs.products import Product
from pointsman_calib.ranges import METHODS
from pointsman_calib.ranges.table import SCHEMA, Amax, Provenance, RangeTable, TensorRange
from pointsman_calib.schemes.qdq.scales import activation_scales, expert_factors

LAYER = "encoder.block.1.layer.1.mlp"
WI = Product(role="encoder", weight=f"{LAYER}.experts.wi", inputs="x", width=32, output_axis=2, layer=LAYER)
WO = Product(role="encoder", weight=f"{LAYER}.experts.wo", inputs="h", width=48, output_axis=2, layer=LAYER)
DENSE = Product(role="encoder", weight="encoder.q.weight", inputs="q", width=32, output_axis=1)
RELU, GATED = CHECKPOINTS["tied"].architecture, CHECKPOINTS["gated"].architecture


def row(amax):
    if amax is None:
        return TensorRange(count=0, zeros=0, min=None, max=None, amax=None)
    spread = Amax(minmax=amax, percentile=amax / 2, entropy=amax / 4, mse=amax / 8)
    return TensorRange(count=9, zeros=0, min=-amax, max=amax, amax=spread)


def table(coverage=(100, 10, 0, 70), own=(8.0, 6.0, None, 0.0), whole=4.0):
    tensors = {"encoder:x": row(2.0), "encoder:h": row(whole), "encoder:q": row(0.0)}
    tensors |= {f"encoder:h[{expert}]": row(amax) for expert, amax in enumerate(own)}
    provenance = Provenance(
        calibration=Calibration(documents=(), seed=0, window=512),
        sequences=128,
        source_tokens=1,
        target_tokens=1,
        variant="portable-float32",
        variant_sha256="",
        percentile=99.99,
        versions={},
    )
    return RangeTable(schema=SCHEMA, provenance=provenance, tensors=tensors, coverage={LAYER: coverage})


def factors_of(products, architecture, *, fewest_tokens=64):
    ranges = table()
    coverage = CoverageRule(fewest_tokens=fewest_tokens).coverage(ranges.coverage, documents=128)
    return expert_factors(ranges, products, architecture, coverage, "minmax")


@pytest.mark.parametrize("method", METHODS)
def test_a_scale_is_the_range_over_127(method):
    scales = activation_scales(table(), [WI, WO, DENSE], method)
    assert scales["encoder:x"] == np.float32(getattr(row(2.0).amax, method) / 127)
    assert scales["encoder:q"] == 1  # all zeros: any scale is exact


def test_an_expert_has_its_own_range_if_it_was_given_enough_tokens():
    factors = factors_of([WI, WO, DENSE], RELU)
    assert factors[WO.weight].tolist() == [2.0, 1.0, 1.0, 1.0]  # the second and third were given too few
    assert factors[WI.weight].tolist() == [0.5, 1.0, 1.0, 1.0]
    assert factors[WO.weight].dtype == np.float32
    factors = factors_of([WI, WO], RELU, fewest_tokens=0)
    assert factors[WO.weight].tolist() == [2.0, 1.5, 1.0, 1.0]


def test_a_gate_takes_the_factor_in_its_linear_half():
    factors = factors_of([WO], GATED)
    assert factors.keys() == {WO.weight, f"{LAYER}.experts.wi_1"}


@pytest.mark.parametrize("activation", [each for each in get_args(Activation) if each != "relu"])
def test_an_activation_that_bends_takes_none(activation):
    assert factors_of([WI, WO], replace(RELU, activation=activation)) == {}


def test_a_table_without_the_tensor_is_refused():
    with pytest.raises(BundleError, match="the range table has no tensor decoder:h; calibrate this bundle again"):
        activation_scales(table(), [replace(WO, role="decoder", layer=None)], "mse")

"""Runs of a float variant on ONNX Runtime in which values inside its graphs can be seen."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from pointsman.manifest import Role, TensorSpec, Variant
from pointsman_calib.batches import Batch

Array = NDArray[Any]
Values = Mapping[str, Array]


class TeacherForcedRun:
    """A variant's encoder, and its decoder fed with the targets, all positions at once.

    ONNX Runtime keeps no memory between runs (no arena, no patterns for each shape), so what a run takes does not
    depend on how many there were.
    """

    def __init__(self, bundle: Path, variant: Variant, taps: Mapping[Role, Iterable[str]]) -> None:
        """Load both graphs.

        Args:
            bundle: its folder.
            variant: a float32 variant.
            taps: for each graph, names of values inside it to hand out.
        """
        self.variant = variant
        self.taps: dict[Role, list[str]] = {role: sorted(set(names)) for role, names in taps.items()}
        self.encoder = _session(bundle / variant.encoder.file, self.taps["encoder"])
        self.decoder = _session(bundle / variant.decoder.file, self.taps["decoder"])

    def run(self, batch: Batch) -> dict[Role, dict[str, Array]]:
        """The tapped values of each graph."""
        cross = [spec.name for spec in self.variant.encoder.outputs]
        names = [*cross, *self.taps["encoder"]]
        feeds = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        encoded = dict(zip(names, self.encoder.run(names, feeds), strict=True))
        decoded = self.decoder.run(self.taps["decoder"], self._decoder_feeds(batch, encoded))
        return {
            "encoder": {name: encoded[name] for name in self.taps["encoder"]},
            "decoder": dict(zip(self.taps["decoder"], decoded, strict=True)),
        }

    def _decoder_feeds(self, batch: Batch, encoded: Values) -> dict[str, Array]:
        rows = len(batch.input_ids)
        feeds: dict[str, Array] = {
            "input_ids": batch.decoder_input_ids,
            "attention_mask": batch.attention_mask,
            "beam_rows": np.arange(rows),
        }
        empty = (spec for spec in self.variant.decoder.inputs if "past" in spec.axes)
        feeds.update((spec.name, _no_past(spec, rows)) for spec in empty)
        feeds.update((spec.name, encoded[spec.name]) for spec in self.variant.encoder.outputs)
        return feeds


def _no_past(spec: TensorSpec, rows: int) -> Array:
    return np.zeros(
        [{"rows": rows, "past": 0}[axis] if isinstance(axis, str) else axis for axis in spec.axes], np.float32
    )


def _session(path: Path, taps: Iterable[str]) -> onnxruntime.InferenceSession:
    model = ir.load(path)
    values = {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs.extend(values[tap] for tap in taps)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    return onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

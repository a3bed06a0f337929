"""Runs of a variant on ONNX Runtime in which values inside its graphs can be seen."""

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

    ONNX Runtime keeps no memory between runs (no arena, no plan for each shape), so what a run takes does not depend on
    how many there were. Weights are packed as in serving: kernels that round activations take packed weights only.
    """

    def __init__(self, graphs: Mapping[Role, Path], variant: Variant, outputs: Mapping[Role, Iterable[str]]) -> None:
        """Load the graphs; the decoder's only if something of it is wanted.

        Args:
            graphs: the files; their weights lie beside them.
            variant: whose interface they have.
            outputs: names of the values to hand out, of the graphs' outputs or inside them.
        """
        self.variant = variant
        self.outputs: dict[Role, list[str]] = {role: sorted(set(names)) for role, names in outputs.items()}
        self.encoder = _session(graphs["encoder"], self.outputs["encoder"])
        self.decoder = _session(graphs["decoder"], self.outputs["decoder"]) if self.outputs["decoder"] else None

    def run(self, batch: Batch) -> dict[Role, dict[str, Array]]:
        """The wanted values of each graph."""
        cross = [spec.name for spec in self.variant.encoder.outputs] if self.decoder is not None else []
        names = sorted({*cross, *self.outputs["encoder"]})
        feeds = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        encoded = dict(zip(names, self.encoder.run(names, feeds), strict=True)) if names else {}
        decoded: dict[str, Array] = {}
        if self.decoder is not None:
            values = self.decoder.run(self.outputs["decoder"], self._decoder_feeds(batch, encoded))
            decoded = dict(zip(self.outputs["decoder"], values, strict=True))
        return {"encoder": encoded, "decoder": decoded}

    def _decoder_feeds(self, batch: Batch, encoded: Values) -> dict[str, Array]:
        rows = len(batch.input_ids)
        feeds: dict[str, Array] = {
            "input_ids": batch.decoder_input_ids,
            "attention_mask": batch.attention_mask,
            "beam_rows": np.arange(rows),
        }
        feeds |= {spec.name: encoded[spec.name] for spec in self.variant.encoder.outputs}
        feeds |= {spec.name: _no_past(spec, rows) for spec in self.variant.decoder.inputs if "past" in spec.axes}
        return feeds


def graph_files(bundle: Path, variant: Variant) -> dict[Role, Path]:
    """Where a variant's graphs are."""
    return {"encoder": bundle / variant.encoder.file, "decoder": bundle / variant.decoder.file}


def _no_past(spec: TensorSpec, rows: int) -> Array:
    shape = [{"rows": rows, "past": 0}[axis] if isinstance(axis, str) else axis for axis in spec.axes]
    return np.zeros(shape, np.float32)


def _session(path: Path, outputs: Iterable[str]) -> onnxruntime.InferenceSession:
    model = ir.load(path)
    values = {value.name: value for node in model.graph for value in node.outputs}
    already = {value.name for value in model.graph.outputs}
    model.graph.outputs.extend(values[name] for name in outputs if name not in already)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    return onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

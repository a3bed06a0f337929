"""A written graph, cut into pieces that fit into memory, and run."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from torch import Tensor

from pointsman.bundle import Dtype, names
from pointsman.processors import restricted
from pointsman_export.verify.few_experts import multiplied, pruned, restrict
from pointsman_export.verify.widening import widen

Array = NDArray[np.generic]


class Pieces:
    """A written graph, run in pieces on the CPU.

    Args:
        path: of the graph; its external data lies beside it.
        dtype: of the graph; pieces of bfloat16 are widened to float32.
    """

    def __init__(self, path: Path, dtype: Dtype) -> None:
        self.folder, self.dtype = path.parent, dtype
        self.model = ir.load(path)
        graph = self.model.graph
        self.values = {value.name: value for node in graph for value in node.outputs}
        self.values |= {value.name: value for value in graph.inputs}

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Tensor]) -> list[Array]:
        """Run the part of the graph between these values."""
        return _run(self._session(self._cut(outputs, feeds)), outputs, feeds)

    def run_experts(self, layer: str, output: str, feeds: Mapping[str, Tensor]) -> Array:
        """Run the experts of a layer, reading none but those that tokens are sent to.

        Args:
            layer: path of the experts.
            output: the value behind them.
            feeds: the value before them, and the choice of experts, int64 [rows, tokens].
        """
        choice = feeds[names.expert_choice(layer)]
        experts = np.unique(choice.numpy()).tolist()
        with pruned(self.model.graph, layer, experts):
            piece = self._cut([output], feeds)
        if stacks := multiplied(piece.graph, layer):
            restrict(piece.graph, stacks, experts)
            (value,) = _run(self._session(piece), [output], feeds)
            return value
        # Row by row, since the portable step fetches the weights of every token's expert at once.
        session = self._session(piece)
        rows = ({name: value[row : row + 1] for name, value in feeds.items()} for row in range(len(choice)))
        return np.concatenate([_run(session, [output], row)[0] for row in rows])

    def _cut(self, outputs: Sequence[str], feeds: Iterable[str]) -> ir.Model:
        graph = ir.convenience.extract(
            self.model.graph, [self.values[name] for name in feeds], [self.values[name] for name in outputs]
        )
        piece = ir.Model(graph, ir_version=self.model.ir_version)
        piece.opset_imports.update(self.model.opset_imports)
        return piece

    def _session(self, piece: ir.Model) -> onnxruntime.InferenceSession:
        if self.dtype == "bfloat16":
            widen(piece)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = restricted() or 0  # 0: the engine chooses
        # Weights stay in the mapped file: only the experts that are hit are read, and none is kept in another dtype.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_cpu_mem_arena = False
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(self.folder))
        return onnxruntime.InferenceSession(
            ir.to_proto(piece).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )


def _run(session: onnxruntime.InferenceSession, outputs: Sequence[str], feeds: Mapping[str, Tensor]) -> list[Array]:
    wanted = {argument.name: argument.type for argument in session.get_inputs()}
    arrays = {name: _fed(value, wanted[name]) for name, value in feeds.items() if name in wanted}
    results: list[Array] = session.run(list(outputs), arrays)
    return results


def _fed(value: Tensor, element_type: str) -> Array:
    array: Array = value.numpy()
    return array.astype(np.float16) if element_type == "tensor(float16)" else array

"""What the float graphs multiply their weights with, over a corpus: the Hessians that GPTQ rounds by.

The corpus is run once per group of weights whose Hessians fit the memory budget. Inputs of an expert are the tokens
that its router sends it, so an expert's Hessian tells how often and with what it is asked; those of its `wo` are
computed from its float `wi`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from pointsman.manifest import Activation, Manifest, Variant
from pointsman_calib.batches import Batch
from pointsman_calib.external_data import read_tensor
from pointsman_calib.weight_rounding import BlockFormat, BlockQuantized, InputHessian, gptq, round_blocks

MEMORY_BUDGET = 1 << 30  # bytes of Hessians held at once
_EXPERT = re.compile(r"(?P<layer>.+)\.experts\.expert_(?P<expert>\d+)\.(?P<projection>wi|wi_0|wi_1|wo)\.weight")

Array = NDArray[Any]
Floats = NDArray[np.float32]
_ACTIVATIONS: dict[Activation, Callable[[Floats], Floats]] = {
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
}


@dataclass(frozen=True, slots=True)
class Product:
    """Where a weight's inputs are found.

    Attributes:
        weight: its name.
        inputs: name of the value that it multiplies; for an expert, of the sparse layer's input.
        chosen: for an expert, the name of the value that tells each token's expert.
        expert: its number; None outside experts.
    """

    weight: str
    inputs: str
    chosen: str | None = None
    expert: int | None = None


class GptqRounding:
    """Rounds weights by GPTQ, collecting their inputs' statistics when they are first asked for.

    Weights must be asked for in the order of `names`, as `graphs.write_weights` does.
    """

    def __init__(
        self,
        bundle: Path,
        manifest: Manifest,
        variant: Variant,
        names: Sequence[tuple[str, int]],
        batches: Callable[[], Iterable[Batch]],
    ) -> None:
        """Collect nothing yet.

        Args:
            bundle: its folder.
            manifest: the bundle's.
            variant: the float variant that is run.
            names: weights that will be rounded and their numbers of inputs, in order.
            batches: the corpus, anew at each call.
        """
        self.statistics = InputStatistics(bundle, manifest, variant)
        self.names, self.batches = list(names), batches
        self.hessians: dict[str, InputHessian] = {}

    def __call__(self, name: str, weight: Floats, form: BlockFormat) -> BlockQuantized:
        """Round one weight; see `graphs.Rounding`."""
        if name not in self.statistics.products:
            return round_blocks(weight, form)
        if name not in self.hessians:
            self.hessians = self.statistics.collect(self._next_group(name), self.batches())
        return gptq(weight, self.hessians.pop(name).matrix, form)

    def _next_group(self, first: str) -> dict[str, int]:
        """Weights from `first` on whose Hessians fit the budget."""
        start = next(i for i, (name, _) in enumerate(self.names) if name == first)
        group: dict[str, int] = {}
        size = 0
        for name, inputs in self.names[start:]:
            size += inputs * inputs * np.dtype(np.float32).itemsize
            if group and size > MEMORY_BUDGET:
                break
            group[name] = inputs
        return {name: inputs for name, inputs in group.items() if name in self.statistics.products}


class InputStatistics:
    """A float variant's graphs, run with the inputs of some of their products as outputs."""

    def __init__(self, bundle: Path, manifest: Manifest, variant: Variant) -> None:
        """Read the graphs; their weights stay on disk."""
        self.architecture = manifest.architecture
        self.paths = {"encoder": bundle / variant.encoder.file, "decoder": bundle / variant.decoder.file}
        self.variant = variant
        self.models = {side: ir.load(path) for side, path in self.paths.items()}
        self.products = {
            product.weight: (side, product) for side, model in self.models.items() for product in products(model.graph)
        }

    def collect(self, weights: Mapping[str, int], batches: Iterable[Batch]) -> dict[str, InputHessian]:
        """Hessians of these weights' inputs.

        Args:
            weights: names, and how many inputs each has.
            batches: the corpus.
        """
        hessians = {name: InputHessian(inputs, np.float32) for name, inputs in weights.items()}
        taps = {
            side: sorted(
                {tap for name in weights if self.products[name][0] == side for tap in _taps(self.products[name][1])}
            )
            for side in self.models
        }
        encoder = self._session("encoder", taps["encoder"])
        decoder = self._session("decoder", taps["decoder"]) if taps["decoder"] else None
        for batch in batches:
            encoded = self._encode(encoder, batch, taps["encoder"])
            self._update(hessians, "encoder", encoded, batch.attention_mask.astype(bool))
            if decoder is not None:
                decoded = self._decode(decoder, batch, encoded, taps["decoder"])
                self._update(hessians, "decoder", decoded, batch.label_mask)
        return hessians

    def _update(
        self, hessians: Mapping[str, InputHessian], side: str, values: Mapping[str, Array], mask: NDArray[np.bool_]
    ) -> None:
        for name, hessian in hessians.items():
            at, product = self.products[name]
            if at == side:
                hessian.update(self._inputs(product, values, mask))

    def _inputs(self, product: Product, values: Mapping[str, Array], mask: NDArray[np.bool_]) -> Floats:
        """The rows that a weight multiplies, [rows, inputs]."""
        rows = mask if product.chosen is None else mask & (values[product.chosen] == product.expert)
        hidden: Floats = values[product.inputs].reshape(*mask.shape, -1)[rows]
        if product.expert is not None and product.weight.endswith(".wo.weight"):
            hidden = self._inner(product, hidden)
        return hidden

    def _inner(self, product: Product, hidden: Floats) -> Floats:
        """What an expert's `wo` multiplies."""
        graph = self.models[self.products[product.weight][0]].graph
        prefix = product.weight.removesuffix("wo.weight")
        names = ("wi_0", "wi_1") if self.architecture.gated else ("wi",)
        first, *gates = (read_tensor(weight_data(graph.initializers[f"{prefix}{name}.weight"])) for name in names)
        inner = _ACTIVATIONS[self.architecture.activation](hidden @ first)
        for gate in gates:
            inner = inner * (hidden @ gate)
        return inner

    def _session(self, side: str, taps: Sequence[str]) -> onnxruntime.InferenceSession:
        model = ir.load(self.paths[side])
        values = {value.name: value for node in model.graph for value in node.outputs}
        model.graph.outputs.extend(values[tap] for tap in taps)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(self.paths[side].parent)
        )
        return onnxruntime.InferenceSession(
            ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def _encode(self, session: onnxruntime.InferenceSession, batch: Batch, taps: Sequence[str]) -> dict[str, Array]:
        names = [spec.name for spec in self.variant.encoder.outputs] + list(taps)
        feeds = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        return dict(zip(names, session.run(names, feeds), strict=True))

    def _decode(
        self, session: onnxruntime.InferenceSession, batch: Batch, encoded: Mapping[str, Array], taps: Sequence[str]
    ) -> dict[str, Array]:
        rows = len(batch.input_ids)
        feeds: dict[str, Array] = {
            "input_ids": batch.decoder_input_ids,
            "attention_mask": batch.attention_mask,
            "beam_rows": np.arange(rows),
        }
        for spec in self.variant.decoder.inputs:
            if spec.name in encoded:
                feeds[spec.name] = encoded[spec.name]
            elif spec.name not in feeds:
                shape = [{"rows": rows, "past": 0}[axis] if isinstance(axis, str) else axis for axis in spec.axes]
                feeds[spec.name] = np.zeros(shape, np.float32)
        return dict(zip(taps, session.run(list(taps), feeds), strict=True))


def products(graph: ir.Graph) -> Iterator[Product]:
    """Every product with a weight: those of the graph itself, then those in its experts' branches."""
    by_name = {str(node.name): node for node in graph}
    for node in graph:
        if node.op_type == "MatMul" and _is_weight(node.inputs[1]):
            yield Product(str(node.inputs[1].name), str(node.inputs[0].name))  # type: ignore[union-attr]
    for name in graph.initializers:
        if match := _EXPERT.fullmatch(name):
            path = "/" + re.sub(r"\.(?!\d)", "/", match["layer"])
            norm = path.removesuffix("/mlp") + "/layer_norm/RMSNormalization"
            chosen = by_name[f"{path}/ArgMax"].outputs[0].name
            yield Product(name, str(by_name[norm].outputs[0].name), str(chosen), int(match["expert"]))


def weight_data(value: ir.Value) -> ir.ExternalTensor:
    """Where an initializer's bytes are."""
    assert isinstance(value.const_value, ir.ExternalTensor)
    return value.const_value


def _is_weight(value: ir.Value | None) -> bool:
    return value is not None and isinstance(value.const_value, ir.ExternalTensor)


def _taps(product: Product) -> Iterator[str]:
    yield product.inputs
    if product.chosen is not None:
        yield product.chosen

"""A variant's two graphs as one Polygraphy runner.

`TeacherForcingRunner` takes batches of documents, as `Comparator.run` feeds them, and gives every tensor that is
compared, padding left out. Each of its graphs runs in Polygraphy's own `OnnxrtRunner`; the decoder is fed the cross
keys and values that this variant's encoder made.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from polygraphy.backend.base import BaseRunner
from polygraphy.backend.onnxrt import OnnxrtRunner
from polygraphy.common import TensorMetadata

from pointsman.bundle import Architecture, Axis, TensorSpec, Variant
from pointsman.errors import BundleError
from pointsman_calib.comparison.exposure import NON_FINITE, Exposure, exposed, exposure
from pointsman_calib.comparison.metrics import Array

_TOKENS: Final = ("attention_mask", "decoder_input_ids", "input_ids", "label_mask")


class TeacherForcingRunner(BaseRunner):  # type: ignore[misc]  # untyped
    """A variant that reads documents and their targets, all decoder positions at once.

    Inputs are `input_ids`, `attention_mask` ``[batch, source]``, `decoder_input_ids`, `label_mask`
    ``[batch, target]``. Outputs are those of `exposure`, first the encoder's, then the decoder's; all but the counts
    have one row for each token that is no padding: `encoder.block.N` ``[source tokens, d_model]``,
    `encoder.block.N.experts` ``[source tokens]``, `logits` ``[target tokens, vocab]``.
    """

    def __init__(
        self, bundle: Path, name: str, variant: Variant, architecture: Architecture, *, layers: bool = False
    ) -> None:
        """Describe the runner; graphs are loaded when it is activated.

        Args:
            bundle: its folder.
            name: of the variant.
            variant: its part of the manifest.
            architecture: of the bundle.
            layers: whether to give the residual stream after each block.
        """
        super().__init__(name=name)
        self._variant = variant
        encoder = exposure(variant.encoder, architecture.encoder, "encoder", layers=layers)
        decoder = exposure(variant.decoder, architecture.decoder, "decoder", layers=layers)
        self._encoder = OnnxrtRunner(_loader(bundle / variant.encoder.file, encoder), name=f"{name} encoder")
        self._decoder = OnnxrtRunner(_loader(bundle / variant.decoder.file, decoder), name=f"{name} decoder")

    def get_input_metadata_impl(self) -> TensorMetadata:
        """What `infer` takes, for Polygraphy."""
        metadata = TensorMetadata()
        for name in _TOKENS:
            metadata.add(name, dtype=np.bool_ if name == "label_mask" else np.int64, shape=(None, None))
        return metadata

    def activate_impl(self) -> None:
        """Load both graphs.

        Raises:
            BundleError: the engine refuses one, or a tensor that is compared is not in it.
        """
        self._encoder.activate()
        self._decoder.activate()

    def deactivate_impl(self) -> None:
        """Free both graphs, whichever were loaded."""
        for runner in (self._encoder, self._decoder):
            if runner.is_active:
                runner.deactivate()

    def infer_impl(self, feed_dict: Mapping[str, Any]) -> "OrderedDict[str, Array]":
        """Run the encoder, then the decoder over all positions at once."""
        started = time.perf_counter()
        source, labels = feed_dict["attention_mask"].astype(np.bool_), feed_dict["label_mask"]
        encoded = self._encoder.infer(
            OrderedDict(input_ids=feed_dict["input_ids"], attention_mask=feed_dict["attention_mask"])
        )
        decoded = self._decoder.infer(self._decoder_feeds(feed_dict, encoded))
        self.inference_time = time.perf_counter() - started
        axes = {spec.name: spec.axes for spec in self._variant.encoder.outputs}
        outputs = OrderedDict((name, _tokens(name, value, source, axes.get(name))) for name, value in encoded.items())
        outputs |= OrderedDict((name, _tokens(name, value, labels, None)) for name, value in decoded.items())
        return outputs

    def _decoder_feeds(self, feeds: Mapping[str, Any], encoded: Mapping[str, Array]) -> "OrderedDict[str, Array]":
        return decoder_feeds(self._variant, feeds["decoder_input_ids"], feeds["attention_mask"], encoded)


def decoder_feeds(
    variant: Variant, input_ids: NDArray[np.int64], mask: NDArray[np.int64], encoded: Mapping[str, Array]
) -> "OrderedDict[str, Array]":
    """What a decoder graph takes to run over all positions at once, one row for each document.

    Args:
        variant: whose decoder.
        input_ids: the decoder's, ``[batch, target]``.
        mask: the encoder's, ``[batch, source]``.
        encoded: the encoder's outputs.
    """
    rows = len(input_ids)
    specs = variant.decoder.inputs
    known: dict[str, Array] = {"input_ids": input_ids, "attention_mask": mask, "beam_rows": np.arange(rows)}
    known |= {spec.name: encoded[spec.name] for spec in specs if spec.name in encoded}
    known |= {spec.name: _empty_cache(spec, rows) for spec in specs if "past" in spec.axes}
    return OrderedDict((spec.name, known[spec.name]) for spec in specs)


def _empty_cache(spec: TensorSpec, rows: int) -> Array:
    shape = [{"rows": rows, "past": 0}[axis] if isinstance(axis, str) else axis for axis in spec.axes]
    return np.empty(shape, spec.dtype)


def _tokens(name: str, value: Array, mask: NDArray[np.bool_], axes: tuple[Axis, ...] | None) -> Array:
    """The rows of tokens that are there, [tokens, ...]; batch and tokens are the first two axes unless named."""
    if name.endswith(NON_FINITE):
        return value
    if axes is not None:
        value = np.moveaxis(value, (axes.index("batch"), axes.index("source")), (0, 1))
    return value[mask]


def _loader(path: Path, wanted: Exposure) -> Callable[[], onnxruntime.InferenceSession]:
    return lambda: _session(path, exposed(path, wanted))


def _session(path: Path, model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BundleError(f"ONNX Runtime refuses {path.name}: {str(error).splitlines()[0]}") from error

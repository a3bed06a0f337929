"""A variant's two graphs, whole, as one Polygraphy runner: for Polygraphy's `Comparator`, beside any other runner.

`compare` runs pieces of graphs instead, in less memory; what both give is the same.
"""

import time
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from polygraphy.backend.base import BaseRunner
from polygraphy.backend.onnxrt import OnnxrtRunner
from polygraphy.common import TensorMetadata

from pointsman.bundle import Variant, names, read_manifest, whole_targets
from pointsman.errors import BundleError
from pointsman.wording import no_variant
from pointsman_calib.comparison.measuring.probes import rows_of_tokens
from pointsman_calib.corpus.batches import Batch
from pointsman_calib.graphs.pieces import whole_session

Arrays = OrderedDict[str, NDArray[Any]]

_DECODER_INPUT_IDS: Final = "decoder_input_ids"
_LABEL_MASK: Final = "label_mask"


class TeacherForcingRunner(BaseRunner):  # type: ignore[misc]  # untyped
    """A variant that reads documents and their targets, all decoder positions at once.

    Inputs are what `feeds` makes of a batch. Outputs have one row for each token that is no padding: the encoder's
    `cross_key.N` and `cross_value.N` ``[source tokens, heads, d_kv]``, then `logits` ``[target tokens, vocab]``. Each
    graph runs in Polygraphy's own `OnnxrtRunner`; the decoder reads what this variant's encoder made.
    """

    def __init__(self, bundle: str | Path, variant: str) -> None:
        """Describe the runner; graphs are loaded when it is activated.

        Args:
            bundle: its folder.
            variant: its name, which is the runner's.

        Raises:
            BundleNotFoundError: there is no bundle.
            BundleError: it is damaged, or lacks the variant.
        """
        super().__init__(name=variant)
        variants = read_manifest(Path(bundle)).variants
        if variant not in variants:
            raise BundleError(no_variant(variant, variants))
        self._variant = variants[variant]
        self._encoder, self._decoder = (
            OnnxrtRunner(partial(whole_session, Path(bundle) / graph.file), name=f"{variant} {role}")
            for role, graph in (("encoder", self._variant.encoder), ("decoder", self._variant.decoder))
        )

    def get_input_metadata_impl(self) -> TensorMetadata:
        """What `infer` takes, for Polygraphy."""
        metadata = TensorMetadata()
        for name in (names.INPUT_IDS, names.ATTENTION_MASK, _DECODER_INPUT_IDS, _LABEL_MASK):
            metadata.add(name, dtype=np.bool_ if name == _LABEL_MASK else np.int64, shape=(None, None))
        return metadata

    def activate_impl(self) -> None:
        """Load both graphs."""
        self._encoder.activate()
        self._decoder.activate()

    def deactivate_impl(self) -> None:
        """Free both graphs, whichever were loaded."""
        for runner in (self._encoder, self._decoder):
            if runner.is_active:
                runner.deactivate()

    def infer_impl(self, feed_dict: Mapping[str, Any]) -> Arrays:
        """Run the encoder, then the decoder over all positions at once."""
        started = time.perf_counter()
        mask = feed_dict[names.ATTENTION_MASK]
        encoded = self._encoder.infer(
            OrderedDict({names.INPUT_IDS: feed_dict[names.INPUT_IDS], names.ATTENTION_MASK: mask})
        )
        decoded = self._decoder.infer(decoder_feeds(self._variant, feed_dict[_DECODER_INPUT_IDS], mask, encoded))
        self.inference_time = time.perf_counter() - started
        axes = {spec.name: spec.axes for spec in (*self._variant.encoder.outputs, *self._variant.decoder.outputs)}
        outputs = OrderedDict((name, rows_of_tokens(value, axes[name], mask != 0)) for name, value in encoded.items())
        logits = decoded[names.LOGITS]
        outputs[names.LOGITS] = rows_of_tokens(logits, axes[names.LOGITS], feed_dict[_LABEL_MASK])
        return outputs


def feeds(batch: Batch) -> dict[str, NDArray[Any]]:
    """What `TeacherForcingRunner` takes of a batch: ids and masks ``[batch, source]`` and ``[batch, target]``."""
    return {
        names.INPUT_IDS: batch.input_ids,
        names.ATTENTION_MASK: batch.attention_mask,
        _DECODER_INPUT_IDS: batch.decoder_input_ids,
        _LABEL_MASK: batch.label_mask,
    }


def decoder_feeds(
    variant: Variant, input_ids: NDArray[np.int64], mask: NDArray[np.int64], encoded: Mapping[str, NDArray[Any]]
) -> Arrays:
    """What a decoder graph takes to run over all positions at once, one row for each document.

    Args:
        variant: whose decoder.
        input_ids: the decoder's, ``[batch, target]``.
        mask: the encoder's, ``[batch, source]``.
        encoded: the encoder's outputs.
    """
    specs = variant.decoder.inputs
    known: dict[str, NDArray[Any]] = {
        names.INPUT_IDS: input_ids,
        names.ATTENTION_MASK: mask,
        **whole_targets(specs, *input_ids.shape),
        **encoded,
    }
    return OrderedDict((spec.name, known[spec.name]) for spec in specs)

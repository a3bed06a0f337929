"""The comparison as command lines of Polygraphy itself: inputs, the baseline's outputs, and `polygraphy run ...`.

For every graph of every variant, `commands.sh` holds a line that runs the graph through ONNX Runtime on one document
and compares each output with the baseline's. All decoders are fed the baseline's cross keys and values, so a line
judges one graph alone. Tolerances are twice the errors that were measured: the lines show whether a graph, an engine or
a machine changes what was measured, and say nothing about whether that was good.

Where a processor's products of bytes saturate, Polygraphy has no way to ask ONNX Runtime for exact ones, as Pointsman
does. A line of a quantized graph would compare something else there, so none is written.
"""

import functools
import shlex
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from polygraphy.backend.onnxrt import OnnxrtRunner
from polygraphy.comparator import Comparator, RunResults
from polygraphy.json import save_json
from polygraphy.logger import G_LOGGER

from pointsman.backends.onnxruntime.weights.saturation import products_saturate
from pointsman.bundle import Role, Variant, names
from pointsman.bundle.writing import replacing
from pointsman.errors import DeviceError, OutputExistsError
from pointsman_calib.comparison.polygraphy_runner import Arrays, decoder_feeds
from pointsman_calib.corpus.batches import Batch
from pointsman_calib.graphs.pieces import whole_session

COMMANDS: Final = "commands.sh"
_HEADER: Final = """\
#!/bin/sh
# Each graph on one document, beside the baseline's outputs. Tolerances are twice the errors that were measured when
# this was written: a line that fails shows a change, and one that passes says nothing of quality. All lines are run.
# ONNX Runtime warns of the caches that it copies: nothing binds them here, as serving does. On x86 processors without
# VNNI lines of quantized graphs fail: their products saturate there, unless ONNX Runtime is told to take exact ones.
failed=0
"""
_HEADROOM: Final = 2.0  # over the error measured here: other machines round otherwise
_ROUNDING: Final = 1e-5  # of the largest magnitude: what two float32 engines may always differ by


def check_commands_folder(folder: Path) -> None:
    """Refuse to write over something.

    Raises:
        OutputExistsError: the folder is there already.
    """
    if folder.exists():
        raise OutputExistsError(f"{folder} is there already; name a new one for the commands, or remove it")


def comparable(variants: Mapping[str, Variant]) -> dict[str, Variant]:
    """Those whose graphs Polygraphy can run on this processor as Pointsman does, by name."""
    saturates = products_saturate()
    return {name: variant for name, variant in variants.items() if not (saturates and variant.quantization)}


def check_baseline(name: str, variant: Variant) -> None:
    """Refuse to write lines that compare with a variant.

    Raises:
        DeviceError: it is not comparable on this processor.
    """
    if name not in comparable({name: variant}):
        raise DeviceError(
            f"{name} is quantized, and Polygraphy cannot have its products computed exactly on this processor, which "
            "has no VNNI; compare with a float variant, or write the commands on another processor"
        )


def write_commands(folder: Path, bundle: Path, variants: Mapping[str, Variant], document: Batch) -> None:
    """Write inputs, outputs and command lines: each comparable variant's encoder, then each one's decoder.

    Args:
        folder: to make.
        bundle: whose graphs are run; the lines name its files by absolute paths.
        variants: by name, the baseline first.
        document: a batch of one, so that nothing of what Polygraphy compares is padding.

    Raises:
        DeviceError: the baseline is not comparable on this processor.
        OutputExistsError: the folder is there already.
        OutputError: it cannot be written.
    """
    check_commands_folder(folder)
    first, baseline = next(iter(variants.items()))
    check_baseline(first, baseline)
    variants = comparable(variants)
    tokens = {names.INPUT_IDS: document.input_ids, names.ATTENTION_MASK: document.attention_mask}
    with replacing(folder) as partial, G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        graphs = {name: _path(bundle, variant.encoder.file) for name, variant in variants.items()}
        encoded, lines = _write_role(partial, folder, "encoder", graphs, OrderedDict(tokens))
        graphs = {name: _path(bundle, variant.decoder.file) for name, variant in variants.items()}
        feeds = decoder_feeds(baseline, document.decoder_input_ids, document.attention_mask, encoded)
        _, more = _write_role(partial, folder, "decoder", graphs, feeds)
        text = _HEADER + "".join(f"{line} || failed=1\n" for line in (*lines, *more)) + "exit $failed\n"
        (partial / COMMANDS).write_text(text, encoding="utf-8")


def _path(bundle: Path, file: str) -> str:
    return str((bundle / file).resolve())


def _write_role(
    partial: Path, folder: Path, role: Role, graphs: Mapping[str, str], feeds: Arrays
) -> tuple[Arrays, list[str]]:
    """Run the graphs, and write what they were given and what the baseline's gave, and return that and the lines."""
    runners = [OnnxrtRunner(functools.partial(whole_session, Path(path)), name=name) for name, path in graphs.items()]
    outputs = {
        name: OrderedDict(iterations[0].items()) for name, iterations in Comparator.run(runners, data_loader=[feeds])
    }
    baseline = next(iter(graphs))
    results = RunResults()
    results.add([outputs[baseline]], runner_name=baseline)
    results.save(str(partial / f"{role}.outputs.json"))
    save_json([feeds], str(partial / f"{role}.inputs.json"))
    return outputs[baseline], [
        _line(folder.resolve(), role, graphs[name], _tolerances(outputs[baseline], outputs[name])) for name in graphs
    ]


def _line(folder: Path, role: Role, graph: str, tolerances: Iterator[str]) -> str:
    command = ["polygraphy", "run", graph, "--onnxrt"]
    command += ["--load-inputs", str(folder / f"{role}.inputs.json")]
    command += ["--load-outputs", str(folder / f"{role}.outputs.json")]
    command += ["--validate", "--compare", "simple", "--check-error-stat", "max", "--rtol", "0", "--atol"]
    return shlex.join([*command, *tolerances])


def _tolerances(baseline: Mapping[str, NDArray[Any]], candidate: Mapping[str, NDArray[Any]]) -> Iterator[str]:
    """Of each output, twice the error measured here; values that are not finite get no room and so fail."""
    for name, value in baseline.items():
        error = float(np.abs(value.astype(np.float64) - candidate[name]).max())
        least = _ROUNDING * float(np.abs(value).max())
        tolerance = max(_HEADROOM * error, least) if np.isfinite(error) else least
        yield f"{name}:{tolerance:.2g}"

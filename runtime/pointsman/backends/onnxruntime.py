"""ONNX Runtime, on the CPU and on CUDA.

Caches never pass through numpy: cross-attention keys and values are bound once per request, and a step's grown cache
is bound as the next step's input where the engine left it. On CUDA they never leave the device.
"""

import contextlib
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from pointsman.backends.base import ASK_FOR_LESS
from pointsman.backends.nvidia import missing_gpu
from pointsman.bundle import Variant, empty_cache, names
from pointsman.errors import BundleError, DeviceError
from pointsman.wording import as_text, is_text

_ELEMENT_TYPES = {"float32": 1, "float16": 10, "bfloat16": 16}  # onnx.TensorProto.DataType
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# float32 is float32: TF32 would keep 10 bits of it.
_PROVIDER_OPTIONS: dict[str, dict[str, str]] = {"cpu": {}, "cuda": {"use_tf32": "0"}}
_FATAL = 4  # the highest severity of messages
_OUT_OF_MEMORY = ("failed to allocate memory", "out of memory", "bad_alloc", "cuda failure 2:")


def why_not_cuda() -> str | None:
    """Why CUDA cannot be used, and what to do; None where ONNX Runtime was built with it and there is a GPU."""
    if _PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        return "the installed ONNX Runtime has no CUDA; install pointsman[gpu], or use device 'cpu'"
    return missing_gpu()


class OnnxRuntimeBackend:
    """A variant's two graphs as ONNX Runtime sessions.

    Attributes:
        engine: name and version.
        device: `cpu` or `cuda`.
    """

    def __init__(self, bundle: Path, variant: Variant, *, device: Literal["cpu", "cuda"], threads: int | None) -> None:
        """Load the graphs.

        Raises:
            DeviceError: the device cannot be used.
            BundleError: the engine refuses a graph.
        """
        self.engine = f"onnxruntime {onnxruntime.__version__}"
        self.device = device
        self.variant = variant
        if device == "cuda":
            _load_cuda()
        graphs = variant.encoder, variant.decoder
        # Laying out weights for matrix products takes most of a load, on one core for each graph.
        with ThreadPoolExecutor(len(graphs)) as pool:
            sessions = pool.map(lambda graph: _session(bundle / graph.file, device, threads), graphs)
            self.encoder, self.decoder = sessions

    def encode(
        self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64], *, rows: int
    ) -> "OnnxRuntimeState":
        """Run the encoder; see `Backend.encode`."""
        binding = self.encoder.io_binding()
        binding.bind_cpu_input(names.INPUT_IDS, np.ascontiguousarray(input_ids))
        binding.bind_cpu_input(names.ATTENTION_MASK, np.ascontiguousarray(attention_mask))
        for spec in self.variant.encoder.outputs:
            binding.bind_output(spec.name, self.device)
        _run(self.encoder, binding, self.device)
        return OnnxRuntimeState(self, attention_mask, binding.get_outputs(), rows)


class OnnxRuntimeState:
    """A `DecodingState` whose tensors are kept on the device."""

    def __init__(
        self, backend: OnnxRuntimeBackend, attention_mask: NDArray[np.int64], cross: list[Any], rows: int
    ) -> None:
        """Bind what stays the same in all steps.

        Args:
            backend: whose decoder is stepped.
            attention_mask: [batch, source].
            cross: the encoder's outputs, in the order of its specs.
            rows: decoder rows.
        """
        self.backend = backend
        self.binding = backend.decoder.io_binding()
        mask = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(attention_mask), backend.device)
        self.binding.bind_ortvalue_input(names.ATTENTION_MASK, mask)
        encoder, decoder = backend.variant.encoder, backend.variant.decoder
        for spec, value in zip(encoder.outputs, cross, strict=True):
            self.binding.bind_ortvalue_input(spec.name, value)
        self.past = [spec.name for spec in decoder.caches]
        self.present = [spec.name for spec in decoder.outputs if spec.name != names.LOGITS]
        empty = empty_cache(decoder.caches, rows)
        self.cache = [self._on_device(empty[spec.name].shape, spec.dtype) for spec in decoder.caches]

    def _on_device(self, shape: tuple[int, ...], dtype: str) -> Any:  # noqa: ANN401 - untyped engine
        kind = _ELEMENT_TYPES[dtype]
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, kind, self.backend.device)

    def step(self, token_ids: NDArray[np.int64], beam_rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Feed tokens to every row; see `DecodingState.step`."""
        binding = self.binding
        binding.bind_cpu_input(names.INPUT_IDS, np.ascontiguousarray(token_ids))
        binding.bind_cpu_input(names.BEAM_ROWS, np.ascontiguousarray(beam_rows))
        for name, value in zip(self.past, self.cache, strict=True):
            binding.bind_ortvalue_input(name, value)
        binding.clear_binding_outputs()
        binding.bind_output(names.LOGITS, "cpu")
        for name in self.present:
            binding.bind_output(name, self.backend.device)
        _run(self.backend.decoder, binding, self.backend.device)
        logits, *self.cache = binding.get_outputs()
        array: NDArray[np.float32] = logits.numpy()
        return array


def _run(session: Any, binding: Any, device: str) -> None:  # noqa: ANN401 - untyped engine
    """Run a session on what is bound.

    Raises:
        DeviceError: there is too little memory.
    """
    try:
        session.run_with_iobinding(binding)
    except Exception as error:
        _check_memory(error, device)
        raise


def _check_memory(error: Exception, device: str) -> None:
    """Say it plainly where an error of the engine's is one of memory.

    Raises:
        DeviceError: it is.
    """
    if any(words in str(error).lower() for words in _OUT_OF_MEMORY):
        where = "the GPU" if device == "cuda" else "this machine"
        raise DeviceError(f"{where} is out of memory; {ASK_FOR_LESS}") from error


def _session(path: Path, device: Literal["cpu", "cuda"], threads: int | None) -> Any:  # noqa: ANN401 - untyped engine
    if not is_text(path):
        raise BundleError(f"{as_text(path)} is a path of bytes that are no UTF-8; give the bundle another")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Encoder and decoder have a pool of threads each: those of one must not spin while the other computes.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(
            path, options, providers=[(_PROVIDERS[device], _PROVIDER_OPTIONS[device])]
        )
    except Exception as error:
        _check_memory(error, device)
        raise BundleError(f"ONNX Runtime refuses {path.name}: {_first_line(error)}") from error
    if session.get_providers()[0] != _PROVIDERS[device]:
        raise DeviceError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load CUDA {onnxruntime.cuda_version or ''} or cuDNN here; "
            "install pointsman[gpu] again and a driver that fits, or use device 'cpu'"
        )
    return session


def _load_cuda() -> None:
    """Load CUDA and cuDNN from the wheels beside ONNX Runtime's; what is not found there is looked for in the system.

    ONNX Runtime reports what is missing in several lines on stdout and stderr, and takes the CPU instead; `_session`
    says so in one.
    """
    onnxruntime.set_default_logger_severity(_FATAL)
    with contextlib.redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
